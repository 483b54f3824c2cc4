"Downloads over a network that breaks: what arrives is the file that was expected, or nothing."
import hashlib, io, os, pickle, signal, subprocess, sys, tarfile, time
from pathlib import Path
import numpy as np
import pytest
from server import serve
from cnnfast.data.download import download_file, fetch_archive
import cnnfast.data.standard_sets as standard

BODY = np.random.default_rng(0).bytes(400_000)
def md5(body): return 'md5:' + hashlib.md5(body).hexdigest()

@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('CNNFAST_HOME', str(tmp_path/'home'))
    monkeypatch.setattr('time.sleep', lambda s: None) # between tries
    return tmp_path/'home'

def get(s, folder, known=md5(BODY), **kwargs):
    return download_file(f'{s.url}/file.bin', folder, known, **{'timeout':1, 'retries':3, **kwargs})
def names(folder): return sorted(o.name for o in Path(folder).iterdir())

def test_whole(tmp_path):
    with serve(BODY) as s:
        assert get(s, tmp_path/'d').read_bytes() == BODY
        get(s, tmp_path/'d') # it is there
        assert s.asked == [None] and names(tmp_path/'d') == ['file.bin']

@pytest.mark.parametrize('fault', ['cut', 'stall'])
def test_goes_on_where_it_stopped(fault, tmp_path):
    with serve(BODY, [(fault, 150_000), (fault, 100_000)]) as s:
        assert get(s, tmp_path).read_bytes() == BODY
        starts = [int(o[6:-1]) for o in s.asked[1:]]
        assert len(starts) == 2 and 0 < starts[0] <= 150_000 < starts[1] <= 250_000

def test_server_that_cannot_resume(tmp_path):
    with serve(BODY, [('cut', 150_000)], ranges=False) as s: assert get(s, tmp_path).read_bytes() == BODY

def test_given_up_and_taken_up_again(tmp_path):
    "After the last try there is no file, and the next call goes on"
    with serve(BODY, [('stall', 200_000), ('stall', 50_000)]) as s:
        with pytest.raises(ConnectionError, match='could not be downloaded'): get(s, tmp_path, retries=1)
        assert len(s.asked) == 2 and names(tmp_path) == ['.file.bin.part']
        assert get(s, tmp_path).read_bytes() == BODY
        assert s.asked[-1] is not None

@pytest.mark.parametrize('length', [300_000, 500_000, False], ids=['too little', 'too much', 'none'])
def test_lies_about_length(length, tmp_path):
    "Nothing but the right file is ever given out"
    with serve(BODY, length=length, ranges=False) as s:
        if length is False: assert get(s, tmp_path).read_bytes() == BODY; return
        with pytest.raises((ValueError, ConnectionError)): get(s, tmp_path, retries=1)
        assert 'file.bin' not in names(tmp_path)

def test_wrong_hash(tmp_path):
    with serve(BODY[::-1]) as s:
        with pytest.raises(ValueError, match='another file than expected'): get(s, tmp_path, retries=1)
        assert names(tmp_path) == [] and len(s.asked) == 2

def test_left_over_of_another_file(tmp_path):
    "A beginning that is not this file's does not spoil it"
    (tmp_path/'.file.bin.part').write_bytes(b'x'*1000)
    with serve(BODY) as s: assert get(s, tmp_path).read_bytes() == BODY
    (tmp_path/'file.bin').unlink(); (tmp_path/'.file.bin.part').write_bytes(b'x'*500_000) # more than there is
    with serve(BODY) as s: assert get(s, tmp_path).read_bytes() == BODY

def test_nobody_there(tmp_path):
    with pytest.raises(ConnectionError, match='could not be downloaded'):
        download_file('http://127.0.0.1:9/x.bin', tmp_path, md5(BODY), retries=0)

def test_not_found(tmp_path):
    with serve(b'') as s, pytest.raises(ConnectionError): get(s, tmp_path, retries=0)

# A data set over this network

def cifar_archive():
    "CIFAR-100's own archive, five pictures of each class"
    rng,out = np.random.default_rng(0),io.BytesIO()
    fine = [f'fine_{i:03}' for i in range(100)]
    def split(n):
        return {b'data':rng.integers(0, 256, (100*n, 3072), dtype=np.uint8), b'fine_labels':list(range(100))*n,
                b'coarse_labels':[i // 5 for i in range(100)]*n}
    files = dict(train=split(20), test=split(2), meta={b'fine_label_names':[o.encode() for o in fine],
                                                       b'coarse_label_names':[f'coarse_{i:02}'.encode() for i in range(20)]})
    with tarfile.open(fileobj=out, mode='w:gz') as t:
        for name,o in files.items():
            m = tarfile.TarInfo(f'cifar-100-python/{name}')
            m.size = len(body := pickle.dumps(o, protocol=2))
            t.addfile(m, io.BytesIO(body))
    return out.getvalue()

@pytest.fixture(scope='module')
def archive(): return cifar_archive()

def test_data_set_is_downloaded_once(archive, home, monkeypatch):
    with serve(archive, [('cut', 1_000_000)]) as s:
        monkeypatch.setitem(standard.ARCHIVES, 'cifar100', (f'{s.url}/cifar-100-python.tar.gz', md5(archive)))
        for _ in range(2): data = standard.cifar100()
        assert len(s.asked) == 2 # the cut and its rest; nothing the second time
    assert [len(o) for o in data.splits.values()] == [1800, 200, 200] and len(data.vocab) == 100
    assert not list((home/'downloads').iterdir()) # the archive is not kept beside what was unpacked from it

def test_data_set_out_of_reach(monkeypatch):
    monkeypatch.setitem(standard.ARCHIVES, 'cifar10', ('http://127.0.0.1:9/cifar-10-python.tar.gz', md5(b'')))
    with pytest.raises(ConnectionError, match='give path='): standard.cifar10()

@pytest.mark.parametrize('when', ['download', 'unpack'])
def test_killed(when, archive, home, monkeypatch):
    "A process killed while it downloads or unpacks leaves nothing that the next one mistakes for the data"
    with serve(archive, [('stall', 2_000_000)] if when == 'download' else []) as s:
        code = f'''
import cnnfast.data.standard_sets as st, cnnfast.data.download as f, os, signal
st.ARCHIVES['cifar100'] = ({s.url + "/cifar-100-python.tar.gz"!r}, {md5(archive)!r})
if {when == "unpack"}:
    real = f.with_progress
    def killing(it=None, desc=None, **kwargs):
        if not desc.startswith('unpacking'): return real(it, desc, **kwargs)
        def gen():
            for i,o in enumerate(it):
                if i == 2: os.kill(os.getpid(), signal.SIGKILL)
                yield o
        return gen()
    f.with_progress = killing
st.cifar100()
'''
        p = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code])
        if when == 'download':
            end = time.monotonic()+60
            while not any(o.stat().st_size > 1_000_000 for o in home.glob('downloads/*/.*.part')) and time.monotonic() < end:
                os.sched_yield()
            p.send_signal(signal.SIGKILL)
        assert p.wait(60) == -signal.SIGKILL
        assert not list((home/'archives').glob('cifar-100-python*'))
        monkeypatch.setitem(standard.ARCHIVES, 'cifar100', (f'{s.url}/cifar-100-python.tar.gz', md5(archive)))
        assert len(standard.cifar100()) == 2200
        assert s.asked[-1] is not None if when == 'download' else len(s.asked) == 1 # it went on; it was not fetched again
    assert sorted(o.name.split('-python')[0] for o in (home/'archives').iterdir()) == ['.cifar-100', 'cifar-100'] # a lock and the data

def test_another_archive_of_the_same_name(archive, home):
    "Data belongs to an address and a hash: another hash is another archive, or an error"
    with serve(archive) as s:
        url = f'{s.url}/data.tar.gz'
        fetch_archive(url, md5(archive))
        with pytest.raises(ValueError, match='another file than expected'): fetch_archive(url, md5(b'other'), retries=0)
