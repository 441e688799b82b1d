"""A line server in a thread, as people write them."""

import socket
import socketserver
import threading

DEFAULT_PORT = 9000
BANNER = "chat ready\n"


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        name = self.rfile.readline().decode().strip()
        self.wfile.write(f"hello {name} on {self.server.server_address[1]}\n".encode())


class ChatServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True

    def __init__(self, host="127.0.0.1", port=DEFAULT_PORT):
        super().__init__((host, port), Handler)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self):
        self.shutdown()
        self.server_close()


class RawServer:
    """One thread, one socket, nothing set."""

    def __init__(self, address):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.bind(address)
        self.sock.listen(5)
        self.thread = threading.Thread(target=self.loop, daemon=True)
        self.thread.start()

    def loop(self):
        while True:
            try:
                conn, _ = self.sock.accept()
            except OSError:
                return
            with conn:
                conn.sendall(BANNER.encode())

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join()
