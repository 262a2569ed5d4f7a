import gzip
import io
import json
import sys
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.addresses import extension_of, is_address, shown, without_secrets
from pyiqa_rali.data.fetching import FetchError, FetchOptions, fetch, open_address, tries, web
from pyiqa_rali.data.image_files import ReadingOptions, UnreadableImage, read_rgb
from pyiqa_rali.scoring.entries import read_entry
from pyiqa_rali.scoring.sources import ImageSources
from tests.stand_ins import AzureContainer, Bucket, Files, GoogleBucket, HubFiles, busy, cut, dripping, running, silent

QUICK = FetchOptions(timeout=30, retries=2)
SECRET = 'wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY'


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """Tries follow each other at once."""
    monkeypatch.setattr(tries, 'FIRST_PAUSE', 0.0)


def png(value=0, size=(8, 6)):
    stream = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(stream, 'PNG')
    return stream.getvalue()


def tar(*members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode='w') as shard:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def entries(*sources, **options):
    return list(ImageSources(sources, fetching=QUICK, **options))


def names_and_values(found):
    return [(entry.name, int(read_entry(entry, ReadingOptions(fetching=QUICK))[0, 0, 0])) for entry in found]


@pytest.mark.parametrize(('address', 'expected'), [
    ('s3://bucket/a.jpg', 's3://bucket/a.jpg'),
    ('https://me:word@host/a.jpg', 'https://host/a.jpg'),
    ('https://ghp_token@host/a.jpg', 'https://host/a.jpg'),
    ('abfs://container@account.dfs.core.windows.net/a.jpg', 'abfs://container@account.dfs.core.windows.net/a.jpg'),
    ('ftp://me:word@host/a.jpg', 'ftp://me@host/a.jpg'),
    ('https://host/a.jpg?width=300&v=2#part', 'https://host/a.jpg?width=300&v=2'),
    (f'https://b.s3.amazonaws.com/a.jpg?X-Amz-Credential=AKIA%2F1&x-amz-signature={SECRET}&versionId=7',
     'https://b.s3.amazonaws.com/a.jpg?versionId=7'),
    (f'https://acc.blob.core.windows.net/c/a.jpg?sv=2024&se=2030&sp=r&sig={SECRET}',
     'https://acc.blob.core.windows.net/c/a.jpg'),
    (f'https://d1.cloudfront.net/a.jpg?Expires=1&Signature={SECRET}&Key-Pair-Id=K', 'https://d1.cloudfront.net/a.jpg'),
    ('https://host/a.jpg?token=abc', 'https://host/a.jpg?token=~ba7816bf8f01cfea'),
])
def test_names_of_pictures_hold_no_credentials(address, expected):
    assert shown(address) == expected


def test_hidden_values_keep_pictures_apart_and_shown_ones_stay():
    assert shown('https://h/i?key=1') != shown('https://h/i?key=2')
    assert shown('https://h/i?id=1') == 'https://h/i?id=1'
    assert SECRET not in shown(f'https://h/i?x={SECRET}') and SECRET not in shown(f'https://h/i?{SECRET}')
    assert extension_of('https://h/a.JPG?w=3.5') == '.jpg' and not is_address('C://a.jpg')


def test_messages_hold_no_credentials(monkeypatch):
    monkeypatch.setenv('AWS_SECRET_ACCESS_KEY', SECRET)
    address = 'https://me:p%40ss@host/a.jpg?sig=abcdef&id=3'
    told = without_secrets(f'GET {address} as me with p@ss and abcdef and {SECRET}: no', address)
    assert told == 'GET https://host/a.jpg?id=3 as me with *** and *** and ***: no'


def test_a_picture_at_an_address_is_read_as_a_file_is(tmp_path):
    with running(Files({'/a b.png': png(7)})) as server:
        pixels = read_rgb(f'{server.address}/a%20b.png?width=3')
    assert pixels.shape == (8, 6, 3) and pixels[0, 0, 0] == 7


@pytest.mark.parametrize('fault', [busy(), busy(429, Retry_After='0'), silent(0), cut(png(), 20)])
def test_what_may_pass_is_tried_again(fault):
    with running(Files({'/a.png': png(9)}, {'/a.png': [fault, fault]})) as server:
        assert fetch(f'{server.address}/a.png', QUICK) == png(9)
        assert server.asked['/a.png'] == 3


@pytest.mark.parametrize(('fault', 'options', 'reason', 'asked'), [
    (busy(), QUICK, 'the server answers 503 Service Unavailable (3 tries)', 3),
    (busy(404), QUICK, 'the server answers 404: not found', 1),
    (busy(403), QUICK, 'the server answers 403: no permission', 1),
    (silent(1.0), FetchOptions(0.2, 1), 'no answer in time (2 tries)', 2),
    (dripping(png(), 0.05), FetchOptions(0.3, 0), 'no answer in time', 1),
])
def test_a_failed_fetch_is_a_reason(fault, options, reason, asked):
    with running(Files({}, {'/a.png': [fault] * 5})) as server:
        address = f'http://me:{SECRET}@{server.address.removeprefix("http://")}/a.png?token={SECRET}'
        with pytest.raises(UnreadableImage) as caught:
            read_rgb(address, ReadingOptions(fetching=options))
        assert caught.value.reason == f'cannot be fetched: {reason}' and SECRET not in str(caught.value)
        assert server.asked.total() == asked


def test_the_log_of_the_http_client_holds_no_credentials(caplog):
    import logging
    with running(Files({'/a.png': png()})) as server, caplog.at_level(logging.INFO):
        fetch(f'http://me:{SECRET}@{server.address.removeprefix("http://")}/a.png?token={SECRET}&id=3', QUICK)
    assert '/a.png?token=~' in caplog.text and 'id=3' in caplog.text and SECRET not in caplog.text


def test_a_host_that_is_not_there_is_a_reason():
    with pytest.raises(FetchError, match='cannot be fetched: .*refused.* \\(3 tries\\)'):
        fetch('http://127.0.0.1:9/a.png', QUICK)


def test_a_web_page_in_place_of_a_picture_is_a_reason():
    with running(Files({'/a.png': b'<!DOCTYPE html><html>'})) as server, pytest.raises(UnreadableImage, match='web page'):
        read_rgb(f'{server.address}/a.png')


def test_netrc_is_one_of_the_usual_means(tmp_path, monkeypatch):
    (tmp_path / 'netrc').write_text(f'machine 127.0.0.1 login me password {SECRET}\n')
    monkeypatch.setenv('NETRC', str(tmp_path / 'netrc'))
    web._client.cache_clear()
    import base64
    expected = 'Basic ' + base64.b64encode(f'me:{SECRET}'.encode()).decode()
    try:
        with running(Files({'/a.png': png()}, password=expected)) as server:
            assert fetch(f'{server.address}/a.png', QUICK) == png()
    finally:
        web._client.cache_clear()


@pytest.mark.parametrize(('values', 'message'), [((0, 1), 'timeout: 0 must be'), ((1, -1), 'retries: -1 must be'),
                                                 ((1, True), 'retries: True'), (('1', 1), "timeout: '1'")])
def test_limits_that_cannot_be_used_are_rejected(values, message):
    with pytest.raises(OptionError, match=message):
        FetchOptions(*values)


def test_a_cut_stream_is_continued_where_it_was_cut():
    content = bytes(range(256)) * 2000
    with running(Files({'/a.tar': content}, {'/a.tar': [cut(content, 1000), cut(content, 300000)]})) as server:
        with open_address(f'{server.address}/a.tar', QUICK) as stream:
            assert stream.read(10) == content[:10]
            stream.seek(500)
            assert stream.read() == content[500:]
        assert [headers.get('Range') for headers in server.headers] == [None, 'bytes=1000-', 'bytes=300000-']


def test_a_file_that_changes_while_it_is_read_is_not_mixed():
    content = bytes(5000)
    with running(Files({'/a.tar': b'x' * 5000}, {'/a.tar': [cut(content, 1000)]})) as server, \
            open_address(f'{server.address}/a.tar', QUICK) as stream, pytest.raises(FetchError, match='has changed while'):
        stream.read()


@pytest.mark.parametrize('pack', [lambda content: ('a.tar', content), lambda content: ('a.tar.gz', gzip.compress(content))])
def test_a_shard_at_an_address_is_streamed(pack):
    name, content = pack(tar(('0.png', png(1)), ('0.json', b'{}'), ('1.png', png(2)), ('1.png', png(3))))
    with running(Files({f'/{name}': content}, {f'/{name}': [cut(content, len(content) // 2)]})) as server:
        address = f'{server.address}/{name}'
        found = entries(f'{address}?sig={SECRET}')
        assert names_and_values(found) == [(f'{address}::0.png', 1), (f'{address}::1.png', 2), (f'{address}::1.png::2', 3)]


def test_a_shard_that_breaks_off_for_good_gives_a_row():
    content = tar(*((f'{index}.png', png(index, (99, 99))) for index in range(5)))
    with running(Files({}, {'/a.tar': [cut(content, 3000), busy(), busy(), busy()]})) as server:
        *found, last = entries(f'{server.address}/a.tar')
        assert len(found) < 5 and last.name == f'{server.address}/a.tar'
        assert last.error.startswith(f'shard not read to its end after {len(found)} members: cannot be fetched: the server')


def test_lists_may_hold_addresses_and_be_at_one(tmp_path):
    with running(Files({'/l/a.png': png(1), '/b.png': png(2)})) as server:
        lines = [f'{server.address}/l/a.png?token=1', f'"{server.address}/b.png"', f'{server.address}/gone.png', 'none.png']
        server.files['/list.txt'] = '\r\n'.join(lines).encode()
        (tmp_path / 'list.txt').write_text('\n'.join(lines))
        for source in (f'@{server.address}/list.txt', f'@{tmp_path}/list.txt'):
            first, second, *failing = entries(source)
            assert names_and_values([first, second]) == [(shown(lines[0]), 1), (f'{server.address}/b.png', 2)]
            for entry, reason in zip(failing, ('404: not found', 'No such file or directory'), strict=True):
                with pytest.raises(UnreadableImage, match=reason):
                    read_entry(entry)


def test_a_list_that_cannot_be_fetched_is_named():
    with running(Files({})) as server, pytest.raises(FetchError) as caught:
        entries(f'@{server.address}/list.txt?token={SECRET}')
    assert str(caught.value).startswith(f'the list {server.address}/list.txt?token=~')
    assert str(caught.value).endswith(': cannot be fetched: the server answers 404: not found')
    assert SECRET not in str(caught.value)


@pytest.fixture
def memory():
    """fsspec's memory as a store of objects."""
    store = fsspec.filesystem('memory')
    store.store.clear()
    store.pseudo_dirs[:] = ['']
    for name, content in {'set/b.png': png(2), 'set/a.png': png(1), 'set/deep/c.PNG': png(3), 'set/notes.txt': b'',
                          's-0.tar': tar(('x.png', png(4))), 's-1.tar': tar(('x.png', png(5)))}.items():
        store.pipe_file(f'/data/{name}', content)
    yield store
    store.store.clear()


@pytest.mark.parametrize(('source', 'expected'), [
    ('memory://data/set', {'set/a.png': 1, 'set/b.png': 2, 'set/deep/c.PNG': 3}),
    ('memory://data/set/', {'set/a.png': 1, 'set/b.png': 2, 'set/deep/c.PNG': 3}),
    ('memory://data/set/*.png', {'set/a.png': 1, 'set/b.png': 2}),
    ('memory://data/**/c.*', {'set/deep/c.PNG': 3}),
    ('memory://data/set/b.png', {'set/b.png': 2}),
    ('memory://data/s-{0..1}.tar', {'s-0.tar::x.png': 4, 's-1.tar::x.png': 5}),
    ('memory://data/s-*', {'s-0.tar::x.png': 4, 's-1.tar::x.png': 5}),
])
def test_folders_globs_and_shards_in_a_store(memory, source, expected):
    assert names_and_values(entries(source)) == [(f'memory://data/{name}', value) for name, value in expected.items()]


def test_what_a_store_does_not_have(memory):
    sources = ImageSources(['memory://data/none.png', 'memory://data/*.gif', 'memory://data/set'], fetching=QUICK)
    first, *rest = sources
    with pytest.raises(UnreadableImage, match='cannot be fetched: not found'):
        read_entry(first)
    assert len(rest) == 3 and sources.empty == ['memory://data/*.gif'] and sources.others == {'.txt': 1}


def test_unknown_protocols_are_rejected_at_once():
    with pytest.raises(OptionError, match='"abfss3" is not a protocol that fsspec knows.*Did you mean "abfss"'):
        ImageSources(['abfss3://bucket/a.png'])


@pytest.fixture
def bucket(monkeypatch):
    """A bucket that stands in for S3, with credentials and address by botocore's own variables."""
    import s3fs
    server = Bucket('photos', {'set/a.png': png(1), 'set/deep/b.png': png(2), 'set/x.csv': b'',
                               's.tar': tar(('m.png', png(3)))})
    for name, value in (('AWS_ACCESS_KEY_ID', 'readers-key'), ('AWS_SECRET_ACCESS_KEY', SECRET), ('AWS_DEFAULT_REGION', 'x'),
                        ('AWS_ENDPOINT_URL', server.address), ('AWS_EC2_METADATA_DISABLED', 'true'),
                        ('AWS_CONFIG_FILE', '/dev/null'), ('AWS_SHARED_CREDENTIALS_FILE', '/dev/null')):
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    with running(server):
        yield server
    s3fs.S3FileSystem.clear_instance_cache()


def test_pictures_folders_and_shards_in_s3(bucket):
    assert names_and_values(entries('s3://photos/set', 's3://photos/*.tar', 's3://photos/set/a.png')) == [
        ('s3://photos/set/a.png', 1), ('s3://photos/set/deep/b.png', 2), ('s3://photos/s.tar::m.png', 3)]


def test_s3_with_the_wrong_key_gives_reasons_without_it(bucket, monkeypatch):
    bucket.key = 'somebody-else'
    for entry in entries('s3://photos/set/a.png', 's3://photos/set/*.png'):
        with pytest.raises(UnreadableImage) as caught:
            read_entry(entry, ReadingOptions(fetching=FetchOptions(30, 0)))
        assert 'fetched' in caught.value.reason or 'listed' in caught.value.reason
        assert SECRET not in str(caught.value) and 'readers-key' not in str(caught.value)


STORED = {'set/a.png': png(1), 'set/deep/b.png': png(2), 'set/x.csv': b'', 's.tar': tar(('m.png', png(3)))}
TOKEN = 'ya29.a0AfB-this-is-a-secret-word'


@pytest.fixture
def google(monkeypatch, tmp_path):
    """A bucket that stands in for Google's, and a service account that is found as Google's library finds it."""
    import gcsfs
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from gcsfs import extended_gcsfs
    server = GoogleBucket('photos', STORED, TOKEN)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    (tmp_path / 'account.json').write_text(json.dumps({
        'type': 'service_account', 'client_email': 'reader@project.iam.gserviceaccount.com', 'private_key': key,
        'private_key_id': '1', 'project_id': 'project', 'token_uri': f'{server.address}/token'}))
    monkeypatch.setenv('GOOGLE_APPLICATION_CREDENTIALS', str(tmp_path / 'account.json'))
    monkeypatch.setenv('NO_GCE_CHECK', 'true')
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', server.address)

    async def plain(system, name):  # asked by gRPC, of Google itself
        return extended_gcsfs.BucketType.NON_HIERARCHICAL
    monkeypatch.setattr(extended_gcsfs.ExtendedGcsFileSystem, '_get_bucket_type', plain)
    gcsfs.GCSFileSystem.clear_instance_cache()
    with running(server):
        yield server
    gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.fixture
def azure(monkeypatch):
    """A container that stands in for Azure's, and the connection string that Azure's library looks for."""
    import adlfs
    server = AzureContainer('photos', STORED)
    monkeypatch.setenv('AZURE_STORAGE_CONNECTION_STRING', 'DefaultEndpointsProtocol=http;AccountName=acc;'
                       f'AccountKey=c2VjcmV0a2V5c2VjcmV0a2V5;BlobEndpoint={server.address}/acc;')
    adlfs.AzureBlobFileSystem.clear_instance_cache()
    with running(server):
        yield server
    adlfs.AzureBlobFileSystem.clear_instance_cache()


@pytest.fixture
def hub(monkeypatch):
    """A private repository of data that stands in for one of the hub, and a token where the hub's library looks for it."""
    import huggingface_hub
    from huggingface_hub import constants
    server = HubFiles('me/photos', STORED, 'hf_readers_secret')
    for name, value in (('HF_HUB_OFFLINE', False), ('HF_HUB_DISABLE_XET', True), ('ENDPOINT', server.address),
                        ('HUGGINGFACE_CO_URL_TEMPLATE', server.address + '/{repo_id}/resolve/{revision}/{filename}')):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv('HF_TOKEN', server.token)
    huggingface_hub.HfFileSystem.clear_instance_cache()
    with running(server):
        yield server
    huggingface_hub.HfFileSystem.clear_instance_cache()


@pytest.mark.parametrize(('store', 'begin'), [('google', 'gs://photos'), ('google', 'gcs://photos'), ('azure', 'az://photos'),
                                              ('azure', 'abfs://photos'), ('hub', 'hf://datasets/me/photos'),
                                              ('hub', 'hf://datasets/me/photos@main')])
def test_pictures_folders_globs_and_shards_in_other_stores(request, store, begin):
    request.getfixturevalue(store)
    assert names_and_values(entries(f'{begin}/set', f'{begin}/*.tar')) == [
        (f'{begin}/set/a.png', 1), (f'{begin}/set/deep/b.png', 2), (f'{begin}/s.tar::m.png', 3)]
    assert names_and_values(entries(f'{begin}/set/a.png', f'{begin}/**/b.png')) == [
        (f'{begin}/set/a.png', 1), (f'{begin}/set/deep/b.png', 2)]


@pytest.mark.parametrize(('store', 'begin', 'secrets'), [
    ('google', 'gs://photos', [TOKEN]), ('azure', 'az://photos', ['c2VjcmV0a2V5c2VjcmV0a2V5']),
    ('hub', 'hf://datasets/me/photos', ['hf_readers_secret'])])
def test_who_may_not_read_is_told_once_and_without_secrets(request, store, begin, secrets, caplog):
    server = request.getfixturevalue(store)
    server.readers, server.account, server.token = set(), 'somebody-else', 'another'
    asked = []
    for address in (f'{begin}/set/a.png', f'{begin}/s.tar'):
        with pytest.raises(FetchError) as caught, open_address(address, FetchOptions(30, 3)) as stream:
            stream.read()
        asked.append(str(caught.value))
        assert 'tries' not in str(caught.value)  # it does not change by waiting
        assert 'no permission' in str(caught.value) or 'not found' in str(caught.value)  # the hub says no more than that
        with pytest.raises(FetchError) as caught:
            fetch(address, FetchOptions(30, 3))
        asked.append(str(caught.value))
        assert 'tries' not in str(caught.value)
    for secret in secrets:
        assert not any(secret in text for text in [*asked, caplog.text])


@pytest.mark.parametrize(('store', 'begin'), [('google', 'gs://photos'), ('azure', 'az://photos'),
                                              ('hub', 'hf://datasets/me/photos')])
def test_what_another_store_does_not_have(request, store, begin):
    request.getfixturevalue(store)
    with pytest.raises(FetchError, match='cannot be fetched: not found$'):
        fetch(f'{begin}/none.png', FetchOptions(30, 3))


@pytest.mark.parametrize(('protocol', 'module'), [('s3', 's3fs'), ('gs', 'gcsfs'), ('az', 'adlfs'), ('abfs', 'adlfs')])
def test_a_protocol_whose_library_is_missing_says_what_to_install(monkeypatch, protocol, module):
    monkeypatch.delitem(sys.modules['fsspec.registry']._registry, protocol, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(OptionError, match=rf'a.png: {protocol}:// needs pip install pyiqa-rali\[remote\]'):
        ImageSources([f'{protocol}://bucket/a.png'])


def row_file(path, pictures, name='image', pairs=True, **others):
    values = [{'bytes': each, 'path': None} for each in pictures] if pairs else pictures
    kind = pa.struct([('bytes', pa.binary()), ('path', pa.string())]) if pairs else pa.binary()
    parquet.write_table(pa.table({name: pa.array(values, kind), **others}), path)
    return str(path)


@pytest.mark.parametrize('pairs', [True, False])
def test_pictures_in_parquet(tmp_path, pairs):
    path = row_file(tmp_path / 'a.parquet', [png(1), None, png(3), b'no picture'], pairs=pairs, text=['a', 'b', 'c', 'd'])
    found = entries(path)
    assert names_and_values([found[0], found[2]]) == [(f'{path}::0', 1), (f'{path}::2', 3)]
    for entry, reason in ((found[1], 'the row holds no picture'), (found[3], 'cannot identify image file')):
        with pytest.raises(UnreadableImage, match=reason):
            read_entry(entry)


def test_parquet_at_an_address(tmp_path):
    path = row_file(tmp_path / 'a.parquet', [png(1), png(2)])
    content = Path(path).read_bytes()
    with running(Files({'/a.parquet': content}, {'/a.parquet': [cut(content, 50)]})) as server:
        assert names_and_values(entries(f'{server.address}/a.parquet')) == [
            (f'{server.address}/a.parquet::{row}', row + 1) for row in range(2)]


@pytest.mark.parametrize(('columns', 'asked', 'reason'), [
    ({'a': [b'1'], 'b': [b'2']}, None, 'several columns may hold the pictures: a, b. Give --image-column.'),
    ({'a': ['1']}, None, 'no column holds bytes of pictures; its columns are a'),
    ({'image': [b'1']}, 'imag', '--image-column: "imag" is not in it; its columns are image. Did you mean "image"?'),
    ({'image': [b'1'], 'x': [1]}, 'x', '--image-column: "x" holds no bytes of pictures; its columns are image, x.')])
def test_which_column_holds_the_pictures_is_not_guessed(tmp_path, columns, asked, reason):
    parquet.write_table(pa.table(columns), tmp_path / 'a.parquet')
    entry, = entries(str(tmp_path / 'a.parquet'), image_column=asked)
    assert entry.error == reason and entry.name == str(tmp_path / 'a.parquet')


def test_the_column_that_is_asked_for_or_recorded_is_taken(tmp_path):
    two = {'thumb': pa.array([png(1)], pa.binary()), 'image': pa.array([png(2)], pa.binary())}
    parquet.write_table(pa.table(two), tmp_path / 'a.parquet')
    assert names_and_values(entries(str(tmp_path / 'a.parquet'), image_column='thumb'))[0][1] == 1
    record = {'info': {'features': {'image': {'_type': 'Image'}, 'thumb': {'_type': 'Value'}}}}
    told = pa.table(two).replace_schema_metadata({'huggingface': json.dumps(record)})
    parquet.write_table(told, tmp_path / 'b.parquet')
    assert names_and_values(entries(str(tmp_path / 'b.parquet')))[0][1] == 2


PICTURE = pa.struct([('bytes', pa.binary()), ('path', pa.string())])


@pytest.mark.parametrize('kind', [
    pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary()), PICTURE])
@pytest.mark.parametrize('extension', ['parquet', 'arrow'])
def test_pictures_in_fields_of_structures_however_they_are_stored(tmp_path, kind, extension):
    values = [{'bytes': content, 'path': None} if kind is PICTURE else content for content in (png(1), png(2))]
    pictures = pa.array(values, pa.binary()).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(values, kind)
    inside = pa.StructArray.from_arrays([pictures, pa.array([7, 8])], ['photo', 'number'])
    rows = pa.table({'id': [1, 2], 'meta': pa.StructArray.from_arrays([inside], ['first'])})
    path = str(tmp_path / f'a.{extension}')
    if extension == 'parquet':
        parquet.write_table(rows, path)
    else:
        with pa.OSFile(path, 'wb') as target, pa.ipc.new_file(target, rows.schema) as writer:
            writer.write_table(rows)
    for asked in (None, 'meta.first.photo'):
        assert names_and_values(entries(path, image_column=asked)) == [(f'{path}::0', 1), (f'{path}::1', 2)]
    entry, = entries(path, image_column='meta.first.number')
    assert entry.error.startswith('--image-column: "meta.first.number" holds no bytes of pictures; its columns are id, meta, '
                                  'meta.first, meta.first.photo, meta.first.number.')


def test_a_row_without_a_structure_has_a_reason_and_lists_are_not_read(tmp_path):
    path = str(tmp_path / 'a.parquet')
    parquet.write_table(pa.table({'meta': pa.array([{'photo': png(1)}, None, {'photo': None}])}), path)
    assert [entry.error for entry in entries(path)] == ['', 'the row holds no picture', 'the row holds no picture']
    parquet.write_table(pa.table({'photos': pa.array([[png(1)], [png(2), png(3)]])}), path)
    entry, = entries(path)
    assert entry.error.endswith('its columns are photos. Of lists, such as photos, no pictures are read: a row has one')


def test_a_record_may_name_an_image_within_a_structure(tmp_path):
    both = pa.table({'meta': pa.array([{'a': png(1), 'b': png(2)}])})
    features = {'meta': {'a': {'_type': 'Value'}, 'b': {'_type': 'Image'}}}
    told = both.replace_schema_metadata({'huggingface': json.dumps({'info': {'features': features}})})
    parquet.write_table(told, tmp_path / 'a.parquet')
    assert names_and_values(entries(str(tmp_path / 'a.parquet')))[0][1] == 2


def test_a_damaged_parquet_file_gives_a_row(tmp_path):
    path = row_file(tmp_path / 'a.parquet', [png(1)] * 3)
    Path(path).write_bytes(Path(path).read_bytes()[:-20])
    entry, = entries(path)
    assert entry.error.startswith('damaged file: ') and entry.name == path


@pytest.mark.slow
def test_data_sets_that_datasets_has_saved(tmp_path):
    import datasets
    def split(*values):
        features = datasets.Features({'image': datasets.Image(), 'label': datasets.Value('int64')})
        return datasets.Dataset.from_dict({'image': [{'bytes': png(value), 'path': None} for value in values],
                                           'label': list(values)}, features=features)
    both = datasets.DatasetDict({'train': split(1, 2, 3), 'test': split(4)})
    both.save_to_disk(tmp_path / 'set', num_shards={'train': 2, 'test': 1})
    found = names_and_values(entries(str(tmp_path / 'set')))
    assert [value for _, value in found] == [1, 2, 3, 4]
    assert found[0][0] == f'{tmp_path}/set/train/data-00000-of-00002.arrow::0'
    split(5).to_parquet(tmp_path / 'p.parquet')
    assert names_and_values(entries(str(tmp_path / 'p.parquet'))) == [(f'{tmp_path}/p.parquet::0', 5)]


def test_a_damaged_record_of_a_saved_data_set_is_a_row(tmp_path):
    (tmp_path / 'state.json').write_text('{')
    (tmp_path / 'dataset_info.json').write_text('{}')
    entry, = entries(str(tmp_path))
    assert 'whose record cannot be read' in entry.error
