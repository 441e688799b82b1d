"""Servers in other languages, each with its standard library's socket."""

from tests.servers.clients import http_get, line
from tests.servers.row import ON_BOTH_FAMILIES, SETS_NO_OPTION, Row, program

NODE = """
const [port, host] = process.argv.slice(2);
const where = port === "fd" ? {fd: 3} : {port: +port, host};
require("http").createServer((request, response) => response.end("held")).listen(where);
"""

JAVA_SOCKET = """
import java.net.*;
import java.nio.channels.*;

class Listen {
    public static void main(String[] arguments) throws Exception {
        ServerSocket server = arguments[0].equals("inherited")
            ? ((ServerSocketChannel) System.inheritedChannel()).socket()
            : new ServerSocket(Integer.parseInt(arguments[0]));
        while (true)
            try (Socket client = server.accept()) {
                client.getOutputStream().write("held".getBytes());
            }
    }
}
"""

JAVA_HTTP = """
import com.sun.net.httpserver.HttpServer;
import java.net.*;

class Web {
    public static void main(String[] arguments) throws Exception {
        var address = new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0]));
        var server = HttpServer.create(address, 0);
        server.createContext("/", exchange -> {
            exchange.sendResponseHeaders(200, 4);
            exchange.getResponseBody().write("held".getBytes());
            exchange.close();
        });
        server.start();
    }
}
"""

GO = """
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
)

func main() {
	var listener net.Listener
	var err error
	if os.Args[1] == "fd" {
		listener, err = net.FileListener(os.NewFile(3, "listener"))
	} else {
		listener, err = net.Listen("tcp", ":"+os.Args[1])
	}
	if err != nil {
		panic(err)
	}
	panic(http.Serve(listener, http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "held") })))
}
"""

RUST = """
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::FromRawFd;

fn main() {
    let port = std::env::args().nth(1).unwrap();
    let listener = if port == "fd" {
        unsafe { TcpListener::from_raw_fd(3) }
    } else {
        TcpListener::bind(format!("127.0.0.1:{port}")).unwrap()
    };
    for client in listener.incoming() {
        client.unwrap().write_all(b"held").unwrap();
    }
}
"""

PERL = """
use IO::Socket::INET;
my $server = $ARGV[0] eq "fd"
    ? IO::Socket::INET->new_from_fd(3, "r+")
    : IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $ARGV[0], Listen => 5)
    or die "$@\\n";
while (my $client = $server->accept) { print $client "held"; close $client }
"""

RUBY = """
require "socket"
server = ARGV[0] == "fd" ? TCPServer.for_fd(3) : TCPServer.new("127.0.0.1", ARGV[0].to_i)
loop { client = server.accept; client.write "held"; client.close }
"""

WEBRICK = """
require "webrick"
server = WEBrick::HTTPServer.new(BindAddress: "127.0.0.1", Port: ARGV[0].to_i)
server.mount_proc("/") { |request, response| response.body = "held" }
server.start
"""

ERLANG = """
#!/usr/bin/env escript
main([Port]) ->
    Where = case Port of "fd" -> [{fd, 3}]; _ -> [{ip, {127, 0, 0, 1}}] end,
    Number = case Port of "fd" -> 0; _ -> list_to_integer(Port) end,
    {ok, Server} = gen_tcp:listen(Number, [binary, {active, false} | Where]),
    serve(Server).

serve(Server) ->
    {ok, Client} = gen_tcp:accept(Server),
    gen_tcp:send(Client, "held"),
    gen_tcp:close(Client),
    serve(Server).
"""

greeting = line(b"", b"held", hang_up=True)

ROWS = [
    Row(
        name="Node.js `http`",
        takes="`server.listen(port, host)`",
        command=("node", "server.js", "{port}", "127.0.0.1"),
        takes_socket="`listen({fd: 3})`",
        activated=("node", "server.js", "fd"),
        files={"server.js": NODE},
        talk=http_get("held"),
        needs=(program("node", "nodejs"),),
        core=True,
    ),
    Row(
        name="Node.js `http`, on `::`",
        takes="`server.listen(port)`",
        command=("node", "server.js", "{port}"),
        files={"server.js": NODE},
        talk=http_get("held"),
        needs=(program("node", "nodejs"),),
        refuses=ON_BOTH_FAMILIES,
        core=True,
    ),
    Row(
        name="Java `ServerSocket`, on `::`",
        takes="`new ServerSocket(port)`",
        command=("java", "-XX:TieredStopAtLevel=1", "Listen", "{port}"),
        # As inetd passes it.
        takes_socket="`System.inheritedChannel()`",
        activated=("sh", "-c", "exec java -XX:TieredStopAtLevel=1 Listen inherited <&3"),
        files={"Listen.java": JAVA_SOCKET},
        prepare=(("javac", "Listen.java"),),
        talk=greeting,
        refuses=ON_BOTH_FAMILIES,
        needs=(program("javac", "default-jdk-headless"),),
    ),
    Row(
        name="Java `com.sun.net.httpserver`",
        takes="`HttpServer.create(address, backlog)`",
        command=("java", "-XX:TieredStopAtLevel=1", "Web", "{port}"),
        files={"Web.java": JAVA_HTTP},
        prepare=(("javac", "Web.java"),),
        talk=http_get("held"),
        needs=(program("javac", "default-jdk-headless"),),
    ),
    Row(
        name="Go `net/http`, on `::`",
        takes='`net.Listen("tcp", ":{port}")`',
        command=("./server", "{port}"),
        takes_socket="`net.FileListener()`",
        activated=("./server", "fd"),
        files={"server.go": GO},
        prepare=(("env", "GOCACHE=/proc/self/cwd/.go", "go", "build", "server.go"),),
        talk=http_get("held"),
        needs=(program("go", "golang-go"),),
        refuses=ON_BOTH_FAMILIES,
    ),
    Row(
        name="Rust `TcpListener`",
        takes="`TcpListener::bind(address)`",
        command=("./server", "{port}"),
        takes_socket="`from_raw_fd(3)`",
        activated=("./server", "fd"),
        files={"server.rs": RUST},
        prepare=(("rustc", "server.rs"),),
        talk=greeting,
        needs=(program("rustc"),),
    ),
    Row(
        name="Perl `IO::Socket::INET`, without `ReuseAddr`",
        takes="`LocalPort => $port`",
        command=("perl", "server.pl", "{port}"),
        takes_socket="`new_from_fd(3)`",
        activated=("perl", "server.pl", "fd"),
        files={"server.pl": PERL},
        talk=greeting,
        needs=(program("perl"),),
        refuses=SETS_NO_OPTION,
        core=True,
    ),
    Row(
        name="PHP's built-in server",
        takes="`php -S {host}:{port}`",
        command=("php", "-S", "127.0.0.1:{port}"),
        files={"index.php": "held"},
        talk=http_get("held"),
        needs=(program("php", "php-cli"),),
    ),
    Row(
        name="Ruby `TCPServer`",
        takes="`TCPServer.new(host, port)`",
        command=("ruby", "server.rb", "{port}"),
        takes_socket="`TCPServer.for_fd(3)`",
        activated=("ruby", "server.rb", "fd"),
        files={"server.rb": RUBY},
        talk=greeting,
        needs=(program("ruby"),),
    ),
    Row(
        name="Ruby WEBrick",
        takes="`HTTPServer.new(Port: port)`",
        command=("ruby", "server.rb", "{port}"),
        files={"server.rb": WEBRICK},
        talk=http_get("held"),
        needs=(program("ruby"), program("ruby", "ruby-webrick")),
    ),
    Row(
        name="Erlang `gen_tcp`, without `reuseaddr`",
        takes="`gen_tcp:listen(Port, Options)`",
        command=("escript", "server", "{port}"),
        takes_socket="`{fd, 3}`",
        activated=("escript", "server", "fd"),
        files={"server": ERLANG},
        talk=greeting,
        needs=(program("escript", "erlang-base"),),
        refuses=SETS_NO_OPTION,
    ),
]
