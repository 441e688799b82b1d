"""Python's web servers and frameworks."""

from tests.servers.clients import http_get, says
from tests.servers.row import PYTHON, Row, module

ASGI = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"held"})
"""

WSGI = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"held"]
"""

FLASK = """
import flask

app = flask.Flask(__name__)

@app.get("/")
def root():
    return "held"
"""

WERKZEUG_FD = """
from site_ import app
from werkzeug.serving import make_server

make_server("127.0.0.1", 0, app, fd=3).serve_forever()
"""

DJANGO = """
import sys
import django.conf, django.http, django.urls
from django.core.management import execute_from_command_line

django.conf.settings.configure(DEBUG=True, ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
urlpatterns = [django.urls.path("", lambda request: django.http.HttpResponse("held"))]
execute_from_command_line(sys.argv)
"""

AIOHTTP = """
import socket, sys
from aiohttp import web

async def root(request):
    return web.Response(text="held")

app = web.Application()
app.router.add_get("/", root)
if sys.argv[1] == "fd":
    web.run_app(app, sock=socket.socket(fileno=3))
else:
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]))
"""

TORNADO = """
import asyncio, socket, sys, tornado.httpserver, tornado.web

class Root(tornado.web.RequestHandler):
    def get(self):
        self.write("held")

async def main():
    server = tornado.httpserver.HTTPServer(tornado.web.Application([("/", Root)]))
    if sys.argv[1] == "fd":
        sock = socket.socket(fileno=3)
        sock.setblocking(False)
        server.add_socket(sock)
    else:
        server.listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()

asyncio.run(main())
"""

WAITRESS = """
import socket, waitress
from site_ import app

waitress.serve(app, sockets=[socket.socket(fileno=3)])
"""

GEVENT = """
import socket, sys
import gevent.socket
from gevent.pywsgi import WSGIServer
from site_ import app

if sys.argv[1] == "fd":
    where = gevent.socket.socket(fileno=3)
else:
    where = ("127.0.0.1", int(sys.argv[1]))
WSGIServer(where, app).serve_forever()
"""

SANIC = """
from sanic import Sanic, response

app = Sanic("held")

@app.get("/")
async def root(request):
    return response.text("held")
"""

SANIC_FD = """
import socket
from site_ import app

app.run(sock=socket.socket(fileno=3), single_process=True)
"""

WEBSOCKETS = """
import asyncio, socket, sys, websockets

async def upper(connection):
    async for message in connection:
        await connection.send(message.upper())

async def main():
    if sys.argv[1] == "fd":
        where = {"sock": socket.socket(fileno=3)}
    else:
        where = {"host": "127.0.0.1", "port": int(sys.argv[1])}
    async with websockets.serve(upper, **where) as server:
        await server.serve_forever()

asyncio.run(main())
"""

WEBSOCKETS_CLIENT = """
import sys
from websockets.sync.client import connect

with connect(f"ws://127.0.0.1:{sys.argv[1]}", proxy=None) as connection:
    connection.send("held")
    print(connection.recv(20))
"""

GUNICORN = (PYTHON, "-m", "gunicorn", "--worker-tmp-dir", ".", "--no-control-socket")

ROWS = [
    Row(
        name="uvicorn",
        takes="`uvicorn --port {port}`",
        command=(PYTHON, "-m", "uvicorn", "site_:app", "--port", "{port}"),
        takes_socket="`--fd 3`",
        activated=(PYTHON, "-m", "uvicorn", "site_:app", "--fd", "3"),
        files={"site_.py": ASGI},
        talk=http_get("held"),
        needs=(module("uvicorn"),),
        core=True,
    ),
    Row(
        name="hypercorn",
        takes="`hypercorn --bind {host}:{port}`",
        command=(PYTHON, "-m", "hypercorn", "site_:app", "--bind", "127.0.0.1:{port}"),
        takes_socket="`--bind fd://3`",
        activated=(PYTHON, "-m", "hypercorn", "site_:app", "--bind", "fd://3"),
        files={"site_.py": ASGI},
        talk=http_get("held"),
        needs=(module("hypercorn"),),
    ),
    Row(
        name="gunicorn",
        takes="`gunicorn --bind {host}:{port}`",
        command=(*GUNICORN, "site_:app", "--bind", "127.0.0.1:{port}"),
        takes_socket="`LISTEN_FDS`",
        activated=(*GUNICORN, "site_:app"),
        files={"site_.py": WSGI},
        talk=http_get("held"),
        needs=(module("gunicorn"),),
        core=True,
    ),
    Row(
        name="Waitress",
        takes="`waitress-serve --port {port}`",
        command=(PYTHON, "-m", "waitress", "--listen", "127.0.0.1:{port}", "site_:app"),
        takes_socket="`sockets=`",
        activated=(PYTHON, "server.py"),
        files={"site_.py": WSGI, "server.py": WAITRESS},
        talk=http_get("held"),
        needs=(module("waitress"),),
    ),
    Row(
        name="Flask (Werkzeug)",
        takes="`flask run --port {port}`",
        command=(PYTHON, "-m", "flask", "--app", "site_", "run", "--port", "{port}"),
        takes_socket="`make_server(fd=3)`",
        activated=(PYTHON, "server.py"),
        files={"site_.py": FLASK, "server.py": WERKZEUG_FD},
        talk=http_get("held"),
        needs=(module("flask"),),
    ),
    Row(
        name="Django `runserver`",
        takes="`manage.py runserver {host}:{port}`",
        command=(PYTHON, "manage.py", "runserver", "--noreload", "127.0.0.1:{port}"),
        files={"manage.py": DJANGO},
        talk=http_get("held"),
        needs=(module("django"),),
    ),
    Row(
        name="aiohttp",
        takes="`web.run_app(app, host=host, port=port)`",
        command=(PYTHON, "server.py", "{port}"),
        takes_socket="`sock=`",
        activated=(PYTHON, "server.py", "fd"),
        files={"server.py": AIOHTTP},
        talk=http_get("held"),
        needs=(module("aiohttp"),),
    ),
    Row(
        name="Twisted",
        takes="`twist web --listen tcp:{port}:interface={host}`",
        command=(
            *(PYTHON, "-m", "twisted", "web", "--path", "."),
            *("--listen", "tcp:{port}:interface=127.0.0.1"),
        ),
        takes_socket="`systemd:domain=INET:index=0`",
        activated=(
            *(PYTHON, "-m", "twisted", "web", "--path", "."),
            *("--listen", "systemd:domain=INET:index=0"),
        ),
        files={"index.html": "held"},
        talk=http_get("held"),
        needs=(module("twisted"),),
    ),
    Row(
        name="Tornado",
        takes="`server.listen(port, host)`",
        command=(PYTHON, "server.py", "{port}"),
        takes_socket="`add_socket()`",
        activated=(PYTHON, "server.py", "fd"),
        files={"server.py": TORNADO},
        talk=http_get("held"),
        needs=(module("tornado"),),
    ),
    Row(
        name="Daphne",
        takes="`daphne --port {port}`",
        command=(PYTHON, "-m", "daphne", "--port", "{port}", "site_:app"),
        takes_socket="`--fd 3`",
        activated=(PYTHON, "-m", "daphne", "--fd", "3", "site_:app"),
        files={"site_.py": ASGI},
        talk=http_get("held"),
        needs=(module("daphne"),),
    ),
    Row(
        name="Granian",
        takes="`granian --port {port}`",
        command=(
            *(PYTHON, "-m", "granian", "--interface", "asgi"),
            *("--host", "127.0.0.1", "--port", "{port}", "site_:app"),
        ),
        files={"site_.py": ASGI},
        talk=http_get("held"),
        needs=(module("granian"),),
    ),
    Row(
        name="gevent `pywsgi`",
        takes="`WSGIServer((host, port), app)`",
        command=(PYTHON, "server.py", "{port}"),
        takes_socket="`WSGIServer(sock, app)`",
        activated=(PYTHON, "server.py", "fd"),
        files={"site_.py": WSGI, "server.py": GEVENT},
        talk=http_get("held"),
        needs=(module("gevent"),),
    ),
    Row(
        name="Sanic",
        takes="`sanic --port {port}`",
        command=(
            *(PYTHON, "-m", "sanic", "site_:app", "--single-process"),
            *("--host", "127.0.0.1", "--port", "{port}"),
        ),
        takes_socket="`sock=`",
        activated=(PYTHON, "server.py"),
        files={"site_.py": SANIC, "server.py": SANIC_FD},
        talk=http_get("held"),
        needs=(module("sanic"),),
    ),
    Row(
        name="websockets",
        takes="`websockets.serve(handler, host, port)`",
        command=(PYTHON, "server.py", "{port}"),
        takes_socket="`sock=`",
        activated=(PYTHON, "server.py", "fd"),
        files={"server.py": WEBSOCKETS, "client.py": WEBSOCKETS_CLIENT},
        talk=says("HELD", PYTHON, "client.py", "{port}"),
        needs=(module("websockets"),),
    ),
]
