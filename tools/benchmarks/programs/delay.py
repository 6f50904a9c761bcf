"""delay.py TARGET_PORT SECONDS: prints its own port; each message of a client waits so long, answers pass at once."""

import asyncio
import sys

TARGET, SECONDS = int(sys.argv[1]), float(sys.argv[2])
LIMIT = 2**18


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Pass on what comes, each piece after a while, until the end."""
    try:
        while data := await reader.read(LIMIT):
            if seconds:
                await asyncio.sleep(seconds)
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection."""
    try:
        there, to_there = await asyncio.open_connection("127.0.0.1", TARGET, limit=LIMIT)
    except OSError:
        writer.close()
        return
    await asyncio.gather(carry(reader, to_there, SECONDS), carry(there, writer, 0.0), return_exceptions=True)


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=LIMIT)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
