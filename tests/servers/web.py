"""Web servers and proxies."""

from tests.servers.clients import http_get
from tests.servers.row import ROOT, USER, Row, program

NGINX = f"""
daemon off;
pid nginx.pid;
error_log stderr;
worker_processes 1;
{f"user {USER};" if ROOT else ""}
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:@PORT@;
        location / {{ return 200 held; }}
    }}
}}
"""

HAPROXY = """
defaults
    mode http
    timeout client 20s
    timeout connect 20s
    timeout server 20s
frontend held
    bind {address}
    http-request return status 200 content-type text/plain string held
"""

# The page is the server's own: as root, its workers are another user, who may not read files here.
APACHE = f"""
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule status_module /usr/lib/apache2/modules/mod_status.so
ServerRoot @FOLDER@
ServerName localhost
DocumentRoot /
PidFile httpd.pid
ErrorLog error.log
{"User #65534" if ROOT else ""}
{"Group #65534" if ROOT else ""}
<Location />
    SetHandler server-status
</Location>
Listen 127.0.0.1:@PORT@
"""

LIGHTTPD = """
server.bind = "127.0.0.1"
server.port = @PORT@
server.document-root = "@FOLDER@"
index-file.names = ("index.html")
"""

ROWS = [
    Row(
        name="nginx",
        takes="`listen {host}:{port};` in its configuration",
        command=("nginx", "-p", ".", "-c", "nginx.conf", "-e", "stderr"),
        takes_socket="`NGINX=3;`",
        activated=("env", "NGINX=3;", "nginx", "-p", ".", "-c", "nginx.conf", "-e", "stderr"),
        files={"nginx.conf": NGINX},
        talk=http_get("held"),
        needs=(program("nginx", "nginx-light"),),
        core=True,
    ),
    Row(
        name="HAProxy",
        takes="`bind {host}:{port}` in its configuration",
        command=("haproxy", "-db", "-f", "haproxy.cfg"),
        takes_socket="`bind fd@3`",
        activated=("haproxy", "-db", "-f", "fd.cfg"),
        files={
            "haproxy.cfg": HAPROXY.format(address="127.0.0.1:@PORT@"),
            "fd.cfg": HAPROXY.format(address="fd@3"),
        },
        talk=http_get("held"),
        needs=(program("haproxy"),),
    ),
    Row(
        name="Apache httpd",
        takes="`Listen {host}:{port}` in its configuration",
        command=("apache2", "-d", ".", "-f", "httpd.conf", "-DFOREGROUND"),
        files={"httpd.conf": APACHE},
        talk=http_get("Apache Server Status"),
        needs=(program("apache2", "apache2-bin"),),
    ),
    Row(
        name="lighttpd",
        takes="`server.port` in its configuration",
        command=("lighttpd", "-D", "-f", "lighttpd.conf"),
        takes_socket="`systemd-socket-activation`",
        activated=("lighttpd", "-D", "-f", "fd.conf"),
        files={
            "lighttpd.conf": LIGHTTPD,
            "fd.conf": LIGHTTPD + 'server.systemd-socket-activation = "enable"\n',
            "index.html": "held",
        },
        talk=http_get("held"),
        needs=(program("lighttpd"),),
    ),
]
