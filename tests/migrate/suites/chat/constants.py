# Where everything lives.
HOST = "127.0.0.1"
LOBBY_PORT = 9101  # the lobby
ROOMS = {"blue": 9102, "green": 9103}
ADMIN_URL = "http://127.0.0.1:9104/admin?x={}"
CONFIG = {
    "host": HOST,
    "port": 9105,
    "timeout": 5000,  # ms, not a port
    "upstreams": ["127.0.0.1:9102", '127.0.0.1:9103'],
}
BASE_PORT = 9200
