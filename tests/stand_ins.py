"""Servers on this machine that stand in for the network: HTTP with faults, S3's interface for a bucket, and the hub's."""

import base64
import contextlib
import email.utils
import hashlib
import json
import threading
import time
import urllib.parse
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape


class Server(ThreadingHTTPServer):
    """A server on loopback; `answer(request)` of a subclass does the work.

    Attributes:
        asked: how often each path was asked for.
        headers: the headers of each request, in their order.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Request)
        self.asked, self.headers = Counter(), []

    @property
    def address(self):
        return f'http://127.0.0.1:{self.server_address[1]}'

    def handle_error(self, *_):
        """Clients that hang up are part of the tests."""


class Request(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        self.server.asked[self.path] += 1
        self.server.headers.append(dict(self.headers))
        self.server.answer(self)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def body(self):
        """Return what the client sent."""
        if self.headers.get('Transfer-Encoding') == 'chunked':
            content = b''
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get('Content-Length') or 0))

    def send(self, content=b'', status=200, **headers):
        """Answer; a range of the content if one is asked for."""
        asked = self.headers.get('Range')
        if asked and status == 200:
            first, _, last = asked.removeprefix('bytes=').partition('-')
            end = min(int(last) + 1 if last else len(content), len(content))
            if int(first) >= len(content):
                return self.send(status=416)
            headers['Content_Range'] = f'bytes {first}-{end - 1}/{len(content)}'
            content, status = content[int(first):end], 206
        self.send_response(status)
        for name, value in {'Content_Length': len(content), **headers}.items():
            self.send_header(name.replace('_', '-'), str(value))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(content)
        return None

    def log_message(self, *_):
        pass


class Files(Server):
    """Files by their paths, and what is wrong with them.

    Args:
        files: content by path without the query, such as {'/a.png': b'...'}.
        faults: by path, functions that answer a request in place of the file, each used once, in their order.
        password: what a client has to send, as user:password.
    """

    def __init__(self, files, faults=None, password=None):
        super().__init__()
        self.files, self.faults, self.password = files, faults or {}, password

    def answer(self, request):
        path = urllib.parse.unquote(urllib.parse.urlsplit(request.path).path)
        if self.password and request.headers.get('Authorization') != self.password:
            request.send(status=401)
        elif self.faults.get(path):
            self.faults[path].pop(0)(request)
        elif path in self.files:
            request.send(self.files[path], ETag=f'"{hash(self.files[path])}"')
        else:
            request.send(status=404)


class Bucket(Server):
    """One bucket behind S3's interface: lists, whole objects and ranges, for who has signed with the right key.

    Args:
        name: of the bucket.
        objects: content by key.
        key: identity of the key that may read.
    """

    def __init__(self, name, objects, key='readers-key'):
        super().__init__()
        self.name, self.objects, self.key = name, objects, key

    def answer(self, request):
        parts = urllib.parse.urlsplit(request.path)
        bucket, _, key = urllib.parse.unquote(parts.path).lstrip('/').partition('/')
        if f'Credential={self.key}/' not in request.headers.get('Authorization', ''):
            self._refuse(request, 403, 'AccessDenied')
        elif bucket != self.name:
            self._refuse(request, 404, 'NoSuchBucket')
        elif key in self.objects:
            request.send(self.objects[key], ETag=f'"{abs(hash(self.objects[key]))}"', Accept_Ranges='bytes',
                         Last_Modified=email.utils.formatdate(0, usegmt=True))
        elif key or request.command == 'HEAD':
            self._refuse(request, 404, 'NoSuchKey') if key else request.send()
        else:
            query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
            self._list(request, query.get('prefix', ''), query.get('delimiter', ''))

    def _list(self, request, prefix, delimiter):
        keys, folders = below(self.objects, prefix, delimiter)
        contents = ''.join(f'<Contents><Key>{escape(key)}</Key><LastModified>1970-01-01T00:00:00.000Z</LastModified>'
                           f'<ETag>"0"</ETag><Size>{len(self.objects[key])}</Size><StorageClass>STANDARD</StorageClass>'
                           '</Contents>' for key in keys)
        common = ''.join(f'<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>' for each in folders)
        request.send(f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>{self.name}</Name><Prefix>{escape(prefix)}'
                     f'</Prefix><KeyCount>{len(keys)}</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>'
                     f'{contents}{common}</ListBucketResult>'.encode(), Content_Type='application/xml')

    @staticmethod
    def _refuse(request, status, code):
        request.send(f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode(), status,
                      Content_Type='application/xml')


class GoogleBucket(Server):
    """One bucket behind Google's JSON interface, and the place where a service account gets its token.

    Args:
        name: of the bucket.
        objects: content by key.
        token: what a service account gets, and what may read.
    """

    def __init__(self, name, objects, token):
        super().__init__()
        self.name, self.objects, self.token, self.readers = name, objects, token, {token}

    def answer(self, request):
        parts, body = urllib.parse.urlsplit(request.path), request.body()
        if parts.path == '/token':
            assert body
            return self._json(request, {'access_token': self.token, 'expires_in': 3600, 'token_type': 'Bearer'})
        if request.headers.get('Authorization', '').removeprefix('Bearer ') not in self.readers:
            return self._json(request, {'error': {'code': 403, 'message': 'no access to the bucket'}}, 403)
        begin = f'/storage/v1/b/{self.name}/o'
        if parts.path == begin:
            query = dict(urllib.parse.parse_qsl(parts.query))
            keys, folders = below(self.objects, query.get('prefix', ''), query.get('delimiter', ''))
            return self._json(request, {'prefixes': folders, 'items': [self._facts(key) for key in keys]})
        key = urllib.parse.unquote(parts.path.removeprefix('/download').removeprefix(begin).lstrip('/'))
        if key not in self.objects:
            return self._json(request, {'error': {'code': 404, 'message': 'no such object'}}, 404)
        if parts.path.startswith('/download'):
            return request.send(self.objects[key])
        return self._json(request, self._facts(key))

    def _facts(self, key):
        return {'name': key, 'bucket': self.name, 'size': str(len(self.objects[key])), 'generation': '1',
                'updated': '2020-01-01T00:00:00.000Z', 'timeCreated': '2020-01-01T00:00:00.000Z',
                'mediaLink': f'{self.address}/download/storage/v1/b/{self.name}/o/{urllib.parse.quote(key, safe="")}'}

    @staticmethod
    def _json(request, values, status=200):
        request.send(json.dumps(values).encode(), status, Content_Type='application/json')


class AzureContainer(Server):
    """One container behind Azure's interface for blobs, for who has signed in the account's name.

    Args:
        name: of the container.
        objects: content by key.
    """

    def __init__(self, name, objects):
        super().__init__()
        self.name, self.objects, self.account = name, objects, 'acc'

    def answer(self, request):
        parts = urllib.parse.urlsplit(request.path)
        container, _, key = urllib.parse.unquote(parts.path).removeprefix('/acc/').partition('/')
        query = dict(urllib.parse.parse_qsl(parts.query))
        if not request.headers.get('Authorization', '').startswith(f'SharedKey {self.account}:'):
            return self._refuse(request, 403, 'AuthenticationFailed')
        if container == self.name and query.get('comp') == 'list':
            return self._list(request, query.get('prefix', ''), query.get('delimiter', ''))
        if container != self.name or key not in self.objects:
            return self._refuse(request, 404, 'BlobNotFound')
        if (asked := request.headers.get('x-ms-range')) and 'Range' not in request.headers:
            request.headers['Range'] = asked
        return request.send(self.objects[key], x_ms_blob_type='BlockBlob', ETag='"1"',
                            Last_Modified=email.utils.formatdate(0, usegmt=True))

    def _list(self, request, prefix, delimiter):
        keys, folders = below(self.objects, prefix, delimiter)
        blobs = ''.join(f'<Blob><Name>{escape(key)}</Name><Properties><Content-Length>{len(self.objects[key])}</Content-Length>'
                        '<Etag>1</Etag><BlobType>BlockBlob</BlobType></Properties></Blob>' for key in keys)
        common = ''.join(f'<BlobPrefix><Name>{escape(each)}</Name></BlobPrefix>' for each in folders)
        request.send(f'<?xml version="1.0"?><EnumerationResults ServiceEndpoint="{self.address}" '
                     f'ContainerName="{self.name}"><Blobs>{blobs}{common}</Blobs><NextMarker/></EnumerationResults>'.encode(),
                     Content_Type='application/xml')

    @staticmethod
    def _refuse(request, status, code):
        request.send(f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode(), status,
                     Content_Type='application/xml', x_ms_error_code=code)


class HubFiles(Server):
    """The part of the hub's interface that reads the files of one repository of data.

    Args:
        repository: 'owner/name'.
        files: content by path, of the branch main.
        token: what may read.
    """

    COMMIT = '0123456789abcdef0123456789abcdef01234567'

    def __init__(self, repository, files, token):
        super().__init__()
        self.repository, self.files, self.token = repository, files, token

    def answer(self, request):
        path, body = urllib.parse.unquote(urllib.parse.urlsplit(request.path).path), request.body()
        api, resolved = f'/api/datasets/{self.repository}', f'/datasets/{self.repository}/resolve/'
        if request.headers.get('Authorization') != f'Bearer {self.token}':
            return Hub.json(request, {'error': 'no access'}, 401, X_Error_Code='RepoNotFound')
        if path.startswith(resolved):
            name = path.removeprefix(resolved).partition('/')[2]
            if name in self.files:
                return request.send(self.files[name], ETag=f'"{name}"', X_Repo_Commit=self.COMMIT)
            return Hub.json(request, {'error': 'no such file'}, 404, X_Error_Code='EntryNotFound')
        if path.startswith(f'{api}/paths-info/'):
            asked = urllib.parse.parse_qs(body.decode()).get('paths') or json.loads(body)['paths']
            return Hub.json(request, [each for name in asked for each in self._facts(name)])
        if path.startswith(f'{api}/tree/'):
            folder = path.removeprefix(f'{api}/tree/').partition('/')[2]
            keys, folders = below(self.files, f'{folder}/' if folder else '', '/')
            if not keys and not folders:
                return Hub.json(request, {'error': 'no such folder'}, 404, X_Error_Code='EntryNotFound')
            names = [each.rstrip('/') for each in folders] + keys
            return Hub.json(request, [each for name in names for each in self._facts(name)])
        if path == api or path.startswith(f'{api}/revision/'):
            return Hub.json(request, {'id': self.repository, 'sha': self.COMMIT, 'private': True, 'siblings': []})
        return Hub.json(request, {'error': 'not found'}, 404)

    def _facts(self, name):
        if name in self.files:
            return [{'type': 'file', 'path': name, 'size': len(self.files[name]), 'oid': 'a' * 40}]
        there = any(each.startswith(f'{name}/') for each in self.files)
        return [{'type': 'directory', 'path': name, 'oid': 'b' * 40}] if there else []


def below(names, prefix, delimiter):
    """Return the names that begin so and, where they go on with a delimiter, what stands before it, once each."""
    keys, folders = [], []
    for name in sorted(names):
        if name.startswith(prefix):
            before, found, _ = name[len(prefix):].partition(delimiter) if delimiter else (name[len(prefix):], '', '')
            (folders if found else keys).append(prefix + before + found if found else name)
    return keys, list(dict.fromkeys(folders))


class Hub(Server):
    """The part of the hub's interface that its client uses for one model repository: create, upload in one commit, download.

    Args:
        repository: 'owner/name'.
        token: the one that may write.

    Attributes:
        commits: files by their path, of each commit, by its name.
        faults: functions that answer a request in place of the hub, by the beginning of 'METHOD /path'; each is used once.
    """

    def __init__(self, repository, token='hf_writer'):
        super().__init__()
        self.repository, self.token = repository, token
        self.commits, self.branches, self.stored, self.faults = {}, {}, {}, {}
        self.made, self.private = False, None

    def answer(self, request):
        path = urllib.parse.unquote(urllib.parse.urlsplit(request.path).path)
        for begin, waiting in self.faults.items():
            if f'{request.command} {path}'.startswith(begin) and waiting:
                return waiting.pop(0)(request)
        body = request.body()
        if request.command in ('POST', 'PUT') and not path.startswith('/lfs/') and (
                request.headers.get('Authorization') != f'Bearer {self.token}'):
            return self.json(request, {'error': 'Invalid credentials'}, 401)
        for prefix, work in ((f'/api/models/{self.repository}/preupload/', self._preupload),
                             (f'/{self.repository}.git/info/lfs/objects/batch', self._batch), ('/lfs/', self._store),
                             (f'/api/models/{self.repository}/commit/', self._commit), ('/api/repos/create', self._create),
                             ('/api/validate-yaml', lambda request, body, rest: self.json(request, {})),
                             (f'/api/models/{self.repository}/revision/', self._info),
                             (f'/api/models/{self.repository}/tree/', self._tree),
                             (f'/{self.repository}/resolve/', self._resolve)):
            if path.startswith(prefix):
                return work(request, body, path[len(prefix):])
        return self.json(request, {'error': 'not found'}, 404)

    @staticmethod
    def json(request, values, status=200, **headers):
        request.send(json.dumps(values).encode(), status, Content_Type='application/json', **headers)

    def _create(self, request, body, _):
        self.made, self.private = True, 'private' in str(json.loads(body).get('visibility', json.loads(body).get('private')))
        self.json(request, {'url': f'{self.address}/{self.repository}', 'name': self.repository})

    def _preupload(self, request, body, _):
        self.json(request, {'files': [{'path': each['path'], 'shouldIgnore': False,
                                       'uploadMode': 'regular' if each['path'].endswith('.md') else 'lfs'}
                                      for each in json.loads(body)['files']]})

    def _batch(self, request, body, _):
        objects = [{**each, **({} if each['oid'] in self.stored else {
            'actions': {'upload': {'href': f'{self.address}/lfs/{each["oid"]}'}}})} for each in json.loads(body)['objects']]
        self.json(request, {'transfer': 'basic', 'objects': objects})

    def _store(self, request, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            return self.json(request, {'error': 'cut'}, 422)
        self.stored[oid] = body
        return request.send()

    def _commit(self, request, body, branch):
        files = dict(self.commits.get(self.branches.get(branch), {}))
        for line in map(json.loads, body.splitlines()):
            if line['key'] == 'file':
                files[line['value']['path']] = base64.b64decode(line['value']['content'])
            elif line['key'] == 'lfsFile':
                files[line['value']['path']] = self.stored[line['value']['oid']]
        name = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[name], self.branches[branch] = files, name
        self.json(request, {'commitUrl': f'{self.address}/{self.repository}/commit/{name}', 'commitOid': name})

    def _at(self, revision):
        name = self.branches.get(revision, revision)
        return name, self.commits.get(name)

    def _info(self, request, _, revision):
        name, files = self._at(revision)
        if files is None:
            return self.json(request, {'error': 'no such revision'}, 404, X_Error_Code='RevisionNotFound')
        return self.json(request, {'id': self.repository, 'modelId': self.repository, 'sha': name, 'private': False,
                                   'siblings': [{'rfilename': path} for path in files]})

    def _tree(self, request, body, revision):
        _, files = self._at(revision.partition('/')[0])
        if files is None:
            return self.json(request, {'error': 'no such revision'}, 404, X_Error_Code='RevisionNotFound')
        return self.json(request, [{'type': 'file', 'path': path, 'size': len(content),
                                    'oid': hashlib.sha1(content).hexdigest()} for path, content in files.items()])

    def _resolve(self, request, _, rest):
        revision, _, path = rest.partition('/')
        name, files = self._at(revision)
        if files is None or path not in files:
            return self.json(request, {'error': 'no such file'}, 404, X_Error_Code='EntryNotFound')
        return request.send(files[path], X_Repo_Commit=name, ETag=f'"{hashlib.sha1(files[path]).hexdigest()}"')


@contextlib.contextmanager
def running(server):
    """Let a server answer while the block runs."""
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def busy(status=503, **headers):
    """A fault: the server is too busy."""
    return lambda request: request.send(status=status, **headers)


def silent(seconds):
    """A fault: no answer for a while."""
    def wait(request):
        time.sleep(seconds)
        request.close_connection = True
    return wait


def cut(content, after):
    """A fault: the connection ends within the content, wherever the client wanted to start."""
    def answer(request):
        begin = int(request.headers.get('Range', 'bytes=0-').removeprefix('bytes=').partition('-')[0])
        request.send_response(206 if begin else 200)
        request.send_header('Content-Length', str(len(content) - begin))
        request.send_header('ETag', f'"{hash(content)}"')
        request.end_headers()
        request.wfile.write(content[begin:after])
        request.wfile.flush()
        request.close_connection = True
    return answer


def dripping(content, pause):
    """A fault: one byte at a time."""
    def answer(request):
        request.send_response(200)
        request.send_header('Content-Length', str(len(content)))
        request.end_headers()
        for place in range(len(content)):
            request.wfile.write(content[place:place + 1])
            request.wfile.flush()
            time.sleep(pause)
    return answer
