"""AsyncSSH logs in with a certificate, opens a connection through the bastion, and prints what an echo gives back.

HOST PORT LOGIN KEY CERTIFICATE HOST_KEY_LINE TARGET_PORT TEXT
"""
import asyncio
import sys

import asyncssh


async def main(host, port, login, key, certificate, host_key, target, text):
    known = asyncssh.import_known_hosts(f"[{host}]:{port} {host_key}\n")
    connection = asyncssh.connect(
        host, int(port), username=login, client_keys=[(key, certificate)], known_hosts=known,
        config=None, agent_path=None,
    )
    async with connection as bastion:
        reader, writer = await bastion.open_connection("127.0.0.1", int(target))
        writer.write(text.encode())
        writer.write_eof()
        print((await reader.read()).decode())


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 30))
