#!/usr/bin/env python3
"""A server in a process of its own: `echo_script.py [--port 6101]`."""
import argparse
import http.server
import os

STATUS_PORT = 6103


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{self.server.server_port} {os.environ.get('BACKEND_PORT', '')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=6101)
    parser.add_argument("--status", action="store_true")
    options = parser.parse_args()
    port = STATUS_PORT if options.status else options.port
    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
