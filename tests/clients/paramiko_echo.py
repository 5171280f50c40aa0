"""paramiko logs in with a certificate, opens a channel through the bastion, and prints what an echo gives back.

HOST PORT LOGIN KEY CERTIFICATE HOST_KEY_LINE TARGET_PORT TEXT [KIND=ALGORITHM,… that it is not to know]
"""
import sys
from base64 import b64decode

import paramiko

host, port, login, key, certificate, host_key, target, text, *unknown = sys.argv[1:]
unknown = {kind: names.split(",") for kind, names in (word.split("=") for word in unknown)}
identity = paramiko.Ed25519Key.from_private_key_file(key)
identity.load_certificate(certificate)
kind, blob = host_key.split()[:2]
with paramiko.SSHClient() as client:
    known = paramiko.PKey.from_type_string(kind, b64decode(blob))
    client.get_host_keys().add(f"[{host}]:{port}", kind, known)
    client.connect(
        host, int(port), login, pkey=identity, allow_agent=False, look_for_keys=False, timeout=30,
        banner_timeout=30, auth_timeout=30, disabled_algorithms=unknown,
    )
    channel = client.get_transport().open_channel("direct-tcpip", ("127.0.0.1", int(target)), ("127.0.0.1", 0))
    channel.settimeout(30)
    channel.sendall(text.encode())
    channel.shutdown_write()
    answer = b""
    while part := channel.recv(1024):
        answer += part
    print(answer.decode())
