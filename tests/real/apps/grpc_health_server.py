"""A gRPC server with the official implementation of the health protocol: grpc_health_server.py PORT

SIGUSR1 makes it NOT_SERVING, SIGUSR2 SERVING again, as a whole and as the service `shop.v1.Cart`.
"""

import signal
import sys
import threading
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
STATES = {signal.SIGUSR1: NOT_SERVING, signal.SIGUSR2: SERVING}


def main():
    server = grpc.server(futures.ThreadPoolExecutor(10))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    echo = {"Echo": grpc.unary_unary_rpc_method_handler(lambda request, context: request)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.App", echo),))
    wanted, changed = [SERVING], threading.Event()

    def change(number, frame):
        wanted.append(STATES[number])
        changed.set()

    for number in STATES:
        signal.signal(number, change)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    servicer.set("shop.v1.Cart", SERVING)
    server.start()
    while True:
        changed.wait()
        changed.clear()
        for service in ("", "shop.v1.Cart"):
            servicer.set(service, wanted[-1])


main()
