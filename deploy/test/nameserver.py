"""A name server that knows one name, for the sidecar's look-ups: A is 127.0.0.1, anything else has no answer.

By UDP it says that the answer is cut off, so that the resolver asks again by TCP. Usage: nameserver.py ADDRESS
"""

import socket
import struct
import sys
import threading


def answer(query, truncated):
    end = 12
    while query[end]:
        end += query[end] + 1
    question = query[12 : end + 5]
    is_a = question[-4:] == b"\0\1\0\1"
    flags = 0x8580 | (0x0200 if truncated else 0)
    has_answer = is_a and not truncated
    head = query[:2] + struct.pack("!5H", flags, 1, int(has_answer), 0, 0)
    record = b"\xc0\x0c" + struct.pack("!2HIH", 1, 1, 1, 4) + socket.inet_aton("127.0.0.1")
    return head + question + (record if has_answer else b"")


def serve_udp(server):
    while True:
        query, caller = server.recvfrom(512)
        server.sendto(answer(query, truncated=True), caller)


def serve_connection(connection):
    with connection, connection.makefile("rb") as reader:
        while length := reader.read(2):
            reply = answer(reader.read(struct.unpack("!H", length)[0]), truncated=False)
            connection.sendall(struct.pack("!H", len(reply)) + reply)


def main():
    address = (sys.argv[1], 53)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(address)
    threading.Thread(target=serve_udp, args=[udp], daemon=True).start()
    tcp = socket.create_server(address)
    print("listening", flush=True)
    while True:
        threading.Thread(target=serve_connection, args=[tcp.accept()[0]], daemon=True).start()


main()
