"""Ends TLS in front of a plain server, as a provider's edge does: tls_relay.py CERTIFICATE KEY HOST PORT."""

import asyncio
import ssl
import sys

certificate, key, host, port = sys.argv[1:]


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def relay(reader, writer):
    from_server, to_server = await asyncio.open_connection(host, int(port))
    await asyncio.gather(copy(reader, to_server), copy(from_server, writer))


async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
