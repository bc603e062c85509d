"""Makes certificates for the servers that tests run on the loopback address."""

import datetime
import ipaddress
import pathlib
import ssl
from typing import NamedTuple


class Certificate(NamedTuple):
    """A certificate that signs itself.

    Attributes:
      server: path of the file with its key, for the server.
      authority: path of the file without it, for clients that are to trust the server.
    """

    server: pathlib.Path
    authority: pathlib.Path

    def context(self):
        """An ssl.SSLContext of a server that has the certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)
        return context


def write(folder, *names):
    """Writes a certificate of hosts, by name or by address, that is good for a day."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([*map(_host, names)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    found = Certificate(pathlib.Path(folder, "server.pem"), pathlib.Path(folder, "authority.pem"))
    found.server.write_bytes(private + signed.public_bytes(pem))
    found.authority.write_bytes(signed.public_bytes(pem))
    return found


def _host(name):
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
