"""A gRPC server without generated code, messages are plain bytes: grpc_server.py PORT [CHAIN KEY]

SIGTERM stops it gracefully: GOAWAY, and calls that are running may end.
"""

import os
import signal
import sys
import threading
from concurrent import futures
from pathlib import Path

import grpc
from announce import announce, wait_at_gate


def echo(request, context):
    context.set_trailing_metadata((("x-length", str(len(request))),))
    return request


def metadata(request, context):
    sent = dict(context.invocation_metadata())
    if raw := sent.get("x-raw-bin"):
        context.send_initial_metadata((("x-raw-bin", raw),))
    return f"{sent.get('x-who')} via {sent.get('via')}".encode()


def missing(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")


def missing_in_detail(request, context):
    """A message that has to be percent-encoded, and the field that holds a google.rpc.Status."""
    context.set_trailing_metadata((("grpc-status-details-bin", bytes(range(256))),))
    context.abort(grpc.StatusCode.NOT_FOUND, "no 50 % café\nhere")


def time_left(request, context):
    return str(context.time_remaining()).encode()


def hang(request, context):
    context.add_callback(lambda: announce("ended", request.decode()))
    announce("hangs", os.getpid())
    wait_at_gate()
    return b"after all"


def count(request, context):
    """So many messages, then a status of its own if that is asked for."""
    number, _, status = request.decode().partition(" ")
    for message in range(int(number)):
        yield str(message).encode()
    if status:
        context.abort(grpc.StatusCode[status], "told behind messages")


def count_and_hang(request, context):
    context.add_callback(lambda: announce("ended", request.decode()))
    for message in range(5):
        yield str(message).encode()
    announce("counted", os.getpid())
    wait_at_gate()


def total(requests, context):
    sum_of_all = 0
    for request in requests:
        sum_of_all += len(request)
        announce("takes", os.getpid())
    return str(sum_of_all).encode()


def double(requests, context):
    for request in requests:
        yield request * 2
        announce("doubled", os.getpid())


METHODS = {
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Metadata": grpc.unary_unary_rpc_method_handler(metadata),
    "Missing": grpc.unary_unary_rpc_method_handler(missing),
    "MissingInDetail": grpc.unary_unary_rpc_method_handler(missing_in_detail),
    "TimeLeft": grpc.unary_unary_rpc_method_handler(time_left),
    "Hang": grpc.unary_unary_rpc_method_handler(hang),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "CountAndHang": grpc.unary_stream_rpc_method_handler(count_and_hang),
    "Total": grpc.stream_unary_rpc_method_handler(total),
    "Double": grpc.stream_stream_rpc_method_handler(double),
}


def main():
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(200), options=limits)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.App", METHODS),))
    address = f"127.0.0.1:{sys.argv[1]}"
    if len(sys.argv) > 2:
        chain, key = (Path(path).read_bytes() for path in sys.argv[2:])
        server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)]))
    else:
        server.add_insecure_port(address)
    server.start()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    server.stop(5).wait()


main()
