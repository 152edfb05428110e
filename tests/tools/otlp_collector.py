"""A collector of spans over gRPC: `otlp_collector.py [CERTIFICATE KEY]`.

It prints its port, then one line for each export: the header `x-team` as it came, and the message in hex. The test decodes it.
"""

import sys
import time
from concurrent import futures

import grpc

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Collector(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method != EXPORT:
            return None
        return grpc.unary_unary_rpc_method_handler(self.export)

    def export(self, request, context):
        team = dict(context.invocation_metadata()).get("x-team", "-")
        say(f"export {team} {request.hex()}")
        # an empty `ExportTraceServiceResponse`: every span is accepted
        return b""


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers((Collector(),))
    if len(sys.argv) > 1:
        certificate, key = (open(path, "rb").read() for path in sys.argv[1:3])
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    say(f"port {port}")
    while True:
        time.sleep(3600)


main()
