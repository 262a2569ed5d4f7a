"""Addresses such as s3://bucket/a.jpg and https://host/a.jpg: what they are called, and what no table or log may show.

Credentials come from where the libraries look for them (environment, configuration files, roles, ~/.netrc); an address can
carry some too: a password before the host, a signature or a token after the question mark. The name of a picture, and every
message, is made of the address without them.
"""

import hashlib
import os
import re
import urllib.parse

_ADDRESS = re.compile(r'^[a-zA-Z][a-zA-Z0-9+.-]+://')  # two letters at least: C:// is a disk of Windows
WEB = ('http', 'https')
# Parameters of signed addresses. They say who may read, never what is read, and are new each time that an address is signed.
SIGNED_BEGINNINGS = ('x-amz-', 'x-goog-', 'x-oss-', 'x-cos-', 'x-bce-')
SIGNATURES = {'signature': {'signature', 'policy', 'expires', 'key-pair-id', 'awsaccesskeyid', 'googleaccessid',
                            'ossaccesskeyid'},
              'sig': {'sig', 'sv', 'ss', 'srt', 'se', 'st', 'sp', 'sr', 'spr', 'sip', 'sdd', 'skoid', 'sktid', 'skt', 'ske',
                      'sks', 'skv', 'saoid', 'suoid', 'scid', 'ses'}}
SECRET_WORDS = ('token', 'secret', 'pass', 'pwd', 'auth', 'sig', 'key', 'cred', 'jwt', 'session', 'hmac', 'sas')
LOOKS_SECRET = re.compile(r'[A-Za-z0-9+/=_~-]{24,}')
DIGITS = 16  # of the digest that stands for a hidden value, so that two pictures keep two names
SECRET_VARIABLES = ('AWS_SECRET_ACCESS_KEY', 'AWS_SESSION_TOKEN', 'FSSPEC_S3_SECRET', 'FSSPEC_S3_TOKEN', 'HF_TOKEN',
                    'HUGGING_FACE_HUB_TOKEN', 'AZURE_STORAGE_ACCOUNT_KEY', 'AZURE_STORAGE_CONNECTION_STRING',
                    'AZURE_STORAGE_SAS_TOKEN', 'AZURE_STORAGE_CLIENT_SECRET', 'AZURE_CLIENT_SECRET')
SHORTEST_SECRET = 4  # shorter ones would be found by chance in any message
HIDDEN = '***'


def is_address(text: object) -> bool:
    """Whether a text is an address and not the path of a file.

    Example:
        >>> is_address('s3://bucket/a.jpg'), is_address('photos/a.jpg'), is_address('C://a.jpg')
        (True, False, False)
    """
    return isinstance(text, str) and bool(_ADDRESS.match(text))


def protocol_of(address: str) -> str:
    """Return what stands before ://, in lower case."""
    return address.partition('://')[0].lower()


def is_web(address: str) -> bool:
    """Whether it is an address of HTTP, where ? begins a query and nothing can be listed."""
    return protocol_of(address) in WEB


def extension_of(name: str) -> str:
    """Return the extension of a path or of an address without its query, in lower case, with the dot.

    Example:
        >>> extension_of('https://host/a.JPG?width=3.5')
        '.jpg'
    """
    return os.path.splitext(path_part(name))[1].lower()


def path_part(name: str) -> str:
    """Return an address of HTTP without its query; any other address, or a path, stays as it is."""
    return re.split('[?#]', name, maxsplit=1)[0] if is_address(name) and is_web(name) else name


def shown(address: str) -> str:
    """Return an address without credentials: the name of its picture in tables and messages.

    What signs an address is left out, so that a picture whose address was signed again keeps its name. The value of another
    parameter that could be secret is replaced by a digest, so that two pictures keep two names.

    Example:
        >>> shown('https://me:word@host/a.jpg?width=3&X-Amz-Signature=0af')
        'https://host/a.jpg?width=3'
        >>> shown('https://host/a.jpg?token=abc')
        'https://host/a.jpg?token=~ba7816bf8f01cfea'
    """
    before, protocol, rest = address.partition('://')
    place, separator, query = rest.partition('?')
    place = place.partition('#')[0] if is_web(address) else place
    host, slash, path = place.partition('/')
    owner, at, machine = host.rpartition('@')
    if at:
        kept = '' if is_web(address) or not owner else owner.partition(':')[0]
        host = f'{kept}@{machine}' if kept else machine
    pairs = [_shown_pair(pair) for pair in _unsigned(query.partition('#')[0].split('&')) if pair]
    return f'{before}{protocol}{host}{slash}{path}' + (f'?{"&".join(pairs)}' if separator and pairs else '')


def without_secrets(text: str, address: str = '') -> str:
    """Return a message without the credentials of an address or of the environment, which some libraries repeat in theirs.

    Args:
        text: the message.
        address: the whole address that it is about, if there is one.
    """
    if address:
        text = text.replace(address, shown(address))
    secrets = {os.environ.get(name, '') for name in SECRET_VARIABLES} | _secrets_of(address)
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, HIDDEN)
    return text


def _unsigned(pairs: list[str]) -> list[str]:
    """Leave out the parameters of a signature."""
    keys = {_key(pair) for pair in pairs}
    signed = {name for mark, names in SIGNATURES.items() if mark in keys for name in names}
    return [pair for pair in pairs if _key(pair) not in signed and not _key(pair).startswith(SIGNED_BEGINNINGS)]


def _key(pair: str) -> str:
    return urllib.parse.unquote_plus(pair.partition('=')[0]).lower()


def _shown_pair(pair: str) -> str:
    key, equals, value = pair.partition('=')
    if not _is_secret(_key(pair), value if equals else key):
        return pair
    digest = hashlib.sha256((value if equals else key).encode('utf-8', 'surrogateescape')).hexdigest()[:DIGITS]
    return f'{key}=~{digest}' if equals else f'~{digest}'


def _is_secret(key: str, value: str) -> bool:
    return any(word in key for word in SECRET_WORDS) or LOOKS_SECRET.fullmatch(urllib.parse.unquote(value)) is not None


def _secrets_of(address: str) -> set[str]:
    """Return every part of an address that `shown` hides, as it is written and as it is meant."""
    if not address:
        return set()
    rest = address.partition('://')[2]
    place, _, query = rest.partition('?')
    owner, at, _ = place.partition('/')[0].rpartition('@')
    found = {owner, owner.partition(':')[2], owner.partition(':')[0] if is_web(address) else ''} if at else set()
    pairs = query.split('&')
    kept = _unsigned(pairs)
    for pair in pairs:
        key, equals, value = pair.partition('=')
        if pair not in kept or _is_secret(_key(pair), value if equals else key):
            found.add(value if equals else key)
    return {each for text in found for each in (text, urllib.parse.unquote(text), urllib.parse.unquote_plus(text))}
