"""Stores and brokers."""

from tests.servers.clients import http_get, line, mqtt_connect, says
from tests.servers.row import USER, Row, program

POSTGRES = (
    *("postgres", "-D", "data", "-h", "127.0.0.1", "-p", "{port}", "-c", "fsync=off"),
    *("-c", "unix_socket_directories=", "-c", "dynamic_shared_memory_type=mmap"),
)

# Goes elsewhere before it looks for its data.
MARIADB_INSTALL = (
    'mariadb-install-db --no-defaults --datadir="$PWD/data" '
    "--auth-root-authentication-method=normal --skip-test-db"
)
MARIADB = (
    'exec mariadbd --no-defaults --datadir="$PWD/data" --port={port} '
    "--bind-address=127.0.0.1 --socket=socket --pid-file=pid"
)

MOSQUITTO = f"""
listener @PORT@ 127.0.0.1
allow_anonymous true
persistence false
user {USER}
"""

ROWS = [
    Row(
        name="Redis",
        takes="`redis-server --port {port}`",
        command=("redis-server", "--port", "{port}", "--bind", "127.0.0.1", "--save", ""),
        talk=line(b"PING\r\n", b"+PONG\r\n"),
        needs=(program("redis-server"),),
        core=True,
    ),
    Row(
        name="memcached",
        takes="`memcached -p {port}`",
        command=("memcached", "-l", "127.0.0.1", "-p", "{port}", "-u", USER),
        talk=line(b"version\r\n", b"VERSION "),
        needs=(program("memcached"),),
        core=True,
    ),
    Row(
        name="PostgreSQL",
        takes="`postgres -p {port}`",
        command=POSTGRES,
        prepare=(
            ("initdb", "-D", "data", "-A", "trust", "-U", "postgres", "--no-sync", "--no-locale"),
        ),
        talk=says(
            "42",
            *("psql", "-h", "127.0.0.1", "-p", "{port}", "-U", "postgres"),
            *("-X", "-A", "-t", "-c", "select 6 * 7", "postgres"),
            starting_up="the database system is",
        ),
        needs=(program("postgres", "postgresql"), program("psql", "postgresql")),
        core=True,
        unprivileged=True,
    ),
    Row(
        name="MariaDB",
        takes="`mariadbd --port={port}`",
        command=("sh", "-c", MARIADB),
        prepare=(("sh", "-c", MARIADB_INSTALL),),
        talk=says(
            "42",
            *("mariadb", "--no-defaults", "-h", "127.0.0.1", "-P", "{port}", "-u", "root"),
            *("-N", "-B", "-e", "select 6 * 7"),
        ),
        needs=(
            program("mariadbd", "mariadb-server-core"),
            program("mariadb", "mariadb-client-core"),
        ),
        unprivileged=True,
    ),
    Row(
        name="etcd",
        takes="`etcd --listen-client-urls {url}`",
        command=(
            *("etcd", "--data-dir", "data", "--listen-client-urls", "{url}"),
            *("--advertise-client-urls", "{url}", "--listen-peer-urls", "http://127.0.0.1:0"),
        ),
        talk=http_get("etcdserver", "/version"),
        needs=(program("etcd", "etcd-server"),),
    ),
    Row(
        name="NATS",
        takes="`nats-server --port {port}`",
        command=("nats-server", "--addr", "127.0.0.1", "--port", "{port}"),
        talk=line(b"", b"INFO {"),
        needs=(program("nats-server"),),
    ),
    Row(
        name="Mosquitto",
        takes="`listener {port}` in its configuration",
        command=("mosquitto", "-c", "mosquitto.conf"),
        files={"mosquitto.conf": MOSQUITTO},
        talk=mqtt_connect,
        needs=(program("mosquitto"),),
    ),
]
