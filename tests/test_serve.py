"The server: it says what Python says, refuses what would harm it in a sentence, and stays up."
import io, json, os, shutil, signal, socket, subprocess, sys, threading, time, zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
import numpy as np
import pytest
import requests
import uvicorn
import yaml
from PIL import Image, PngImagePlugin
from sklearn.datasets import load_sample_image
from conftest import ROOT, cnnfast_here, fails_with
from cnnfast.data.folders import image_folder, sample_folder
from cnnfast.saving import serve as module, uploads
from cnnfast.saving.folder import load_model, save_model
from cnnfast.saving.serve import serve_app, write_space
from cnnfast.saving.uploads import Limits, Refused, check_picture
from cnnfast.training.learner import scratch_learner

needs_gradio = pytest.mark.skipif(find_spec('gradio') is None, reason='needs cnnfast[serve]')
SAVED = ROOT/'tests'/'saved'

@pytest.fixture(scope='module')
def learn(tmp_path_factory):
    photos = sample_folder(tmp_path_factory.mktemp('photos')/'photos')
    learn = scratch_learner(image_folder(photos, size=32).dataloaders(bs=64, device='cpu'), 'cnn', seed=0)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1)
    return learn

@pytest.fixture(scope='module')
def folder(learn, tmp_path_factory): return save_model(learn, tmp_path_factory.mktemp('model')/'m', examples=6)

@contextmanager
def running(app):
    "The address at which `app` is served, in a thread"
    s = uvicorn.Server(uvicorn.Config(app, port=0, log_level='warning', timeout_graceful_shutdown=1))
    thread = threading.Thread(target=s.run, daemon=True)
    thread.start()
    while not s.started: time.sleep(0.01); assert thread.is_alive()
    try: yield f'http://127.0.0.1:{s.servers[0].sockets[0].getsockname()[1]}'
    finally: s.should_exit = True; thread.join(20)

@pytest.fixture(scope='module')
def address(folder):
    with running(serve_app(folder, page=False, megapixels=2, megabytes=1, files=8)) as o: yield o

@pytest.fixture(scope='module')
def page_address(folder):
    with running(serve_app(folder, title='Flowers & <temples>', megapixels=2, megabytes=1, files=8)) as o: yield o

def saved(im, kind, **kwargs):
    im.save(buf := io.BytesIO(), kind, **kwargs)
    return buf.getvalue()

PHOTO = Image.fromarray(load_sample_image('flower.jpg')).resize((300, 200))
JPEG = saved(PHOTO, 'jpeg')
SIDES = JPEG.index(b'\xff\xc0')+5 # where its height and width stand

def asked(address, files, to='/predict'):
    files = files.items() if isinstance(files, dict) else files
    return requests.post(address+to, files=[('files', o) for o in files], timeout=60)

def refused(res, status, *words):
    "One sentence, with that status"
    assert res.status_code == status, res.text
    says = res.text
    if res.url.split('?')[0].endswith('/predict'): (key,says), = res.json().items(); assert key == 'error'
    assert '\n' not in says and len(says) < 250
    for o in words: assert o in says, says

# What it says

def kinds_of_pictures():
    (turned := Image.Exif())[0x112] = 6
    clear = PHOTO.convert('RGBA')
    clear.putalpha(Image.linear_gradient('L').resize(clear.size))
    deep = Image.fromarray(np.asarray(PHOTO.convert('L')).astype(np.uint16)*257)
    return {'photo.jpg':JPEG, 'turned.jpg':saved(PHOTO, 'jpeg', exif=turned), 'clear.png':saved(clear, 'png'),
            'deep.png':saved(deep, 'png'), 'palette.gif':saved(PHOTO, 'gif'),
            'photo.webp':saved(PHOTO, 'webp'), 'photo.tif':saved(PHOTO, 'tiff')}

def test_probabilities_are_those_of_python(address, folder, tmp_path):
    "To the last bit, of each kind of file, one by one and several at once"
    files,model = kinds_of_pictures(),load_model(folder, 'cpu')
    for name,o in files.items(): (tmp_path/name).write_bytes(o)
    for answer in asked(address, files).json()['predictions'] + [asked(address, {k:o}).json()['predictions'][0] for k,o in files.items()]:
        ours = model.predict_proba(tmp_path/answer['file'])[0]
        theirs = {o['label']:np.float32(o['probability']) for o in answer['top']}
        assert theirs == dict(zip(model.classes, ours)) and answer['label'] == model.classes[ours.argmax()]
        assert answer['probability'] == answer['top'][0]['probability'] >= answer['top'][1]['probability'] and answer['sure']

def test_a_picture_as_the_body(address):
    ours = asked(address, {'a.jpg':JPEG}).json()['predictions'][0]
    theirs = requests.post(f'{address}/predict', params=dict(name='a.jpg'), data=JPEG, headers={'Content-Type':'image/jpeg'}).json()
    assert theirs['predictions'] == [ours]

def test_what_is_known_of_the_model(address):
    about = requests.get(f'{address}/model').json()
    assert about['classes'] == ['flower', 'temple'] and about['size'] == 32 and about['limits']['megabytes'] == 1
    assert requests.get(f'{address}/health').json() == dict(status='ok', waiting=0)

def test_an_ensemble(tmp_path):
    "Served as it is saved; of a single picture of 8×8 pixels, in grey"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)*4).save(tmp_path/'a.png')
    ours = load_model(SAVED/'ensemble', 'cpu').predict_proba(tmp_path/'a.png')[0]
    with running(serve_app(SAVED/'ensemble', page=False)) as address:
        top = asked(address, {'a.png':(tmp_path/'a.png').read_bytes()}).json()['predictions'][0]['top']
    assert len(top) == 5 and [o['probability'] for o in top] == sorted(ours.tolist(), reverse=True)[:5]

def test_it_says_where_it_is_unsure(learn, monkeypatch):
    card = dict(module.served_card(load_model(SAVED/'run'/'plain'/'seed-0')), unsure_below=1.)
    monkeypatch.setattr(module, 'served_card', lambda model: card)
    with running(serve_app(learn, page=False)) as address: answer, = asked(address, {'a.jpg':JPEG}).json()['predictions']
    assert answer['sure'] is False and module._in_words(answer, 1.).startswith('## I don’t know\nMost likely ')

# What it refuses

def with_text(n):
    "A small PNG, with a text of `n` letters in it, packed"
    (info := PngImagePlugin.PngInfo()).add_text('a', 'a'*n, zip=True)
    return saved(PHOTO, 'png', pnginfo=info)

HOSTILE = {
    'a script named .jpg': ({'cat.jpg':b'#!/bin/sh\nrm -rf /\n'}, 415, ['cat.jpg', 'no picture']),
    'nothing': ({'cat.jpg':b''}, 415, ['cat.jpg', 'no picture']),
    'a web page': ({'cat.png':b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'}, 415, ['cat.png']),
    'PostScript, which would be handed to an interpreter': ({'cat.eps':saved(PHOTO, 'eps')}, 415, ['cat.eps']),
    'half a picture': ({'whole.jpg':JPEG, 'half.jpg':JPEG[:len(JPEG)//2]}, 422, ['half.jpg', 'cut off']),
    'a hundred megapixels': ({'large.png':saved(Image.new('1', (10_000, 10_000)), 'png')}, 413, ['large.png', '2 megapixels']),
    'more pixels than Pillow opens': ({'huge.jpg':JPEG[:SIDES] + b'\xff\xff'*2 + JPEG[SIDES+4:]}, 413, ['huge.jpg', 'megapixels']),
    'a text that unpacks to 100 MB': ({'text.png':with_text(10**8)}, 415, ['text.png']),
    'thousands of passes': ({'slow.jpg':saved(PHOTO, 'jpeg', progressive=True) + b'\xff\xda'*1000}, 413, ['slow.jpg', 'passes']),
    '10,000 files': ([(f'{i}.jpg', b'\xff\xd8\xff') for i in range(10_000)], 413, ['more than 8 files']),
    'more bytes than allowed': ({'a.jpg':bytes(3*10**6)}, 413, ['more than 1 MB']),
    'an odd name': ({'a\tb<b>\u202e.jpg'*20:b'no'}, 415, ['no picture']),
}

@pytest.mark.parametrize('files,status,words', HOSTILE.values(), ids=HOSTILE)
def test_refused_in_one_sentence(address, files, status, words):
    refused(asked(address, files), status, *words)
    assert asked(address, {'a.jpg':JPEG}).status_code == 200
    assert requests.get(f'{address}/health').json()['waiting'] == 0

def test_what_is_no_form(address):
    post = lambda **kwargs: requests.post(f'{address}/predict', timeout=60, **kwargs)
    form = {'Content-Type':'multipart/form-data; boundary=xx'}
    refused(post(json=dict(picture='cat.jpg')), 415, 'no pictures')
    refused(post(), 415, 'no pictures')
    refused(post(data=JPEG, headers=form), 400, 'form cannot be read')
    refused(post(data=JPEG, headers={'Content-Type':'multipart/form-data'}), 400, 'form cannot be read')
    refused(post(data=b'--xx--\r\n', headers=form), 400, 'no files')
    refused(post(data=(bytes(10**5) for _ in range(30)), headers={'Content-Type':'image/png'}), 413, '1 MB') # its length is not said
    assert requests.get(f'{address}/predict').status_code == 405

def test_packed_pixels_without_end():
    "A small PNG whose pixels unpack to 200 MB: no more than the picture needs is unpacked"
    png = saved(PHOTO, 'png')
    def chunk(kind, o): return len(o).to_bytes(4, 'big') + kind + o + zlib.crc32(kind+o).to_bytes(4, 'big')
    packer = zlib.compressobj(1)
    pixels = b''.join(packer.compress(bytes(10**6)) for _ in range(200)) + packer.flush()
    start = png.index(b'IDAT')-4
    o = png[:start] + chunk(b'IDAT', pixels) + chunk(b'IEND', b'')
    check_picture('a.png', o, Limits())
    import psutil
    before = psutil.Process().memory_info().rss
    try: load_model(SAVED/'run'/'plain'/'seed-0').predict_proba([o])
    except ValueError: pass
    assert psutil.Process().memory_info().rss - before < 100*2**20

# Time, and places

class Waits:
    "A model that answers when it is told to"
    kind,classes,members = 'ensemble',['a', 'b'],[0, 1]
    def __init__(self): self.go,self.calls = threading.Event(),0
    def predict_proba(self, what):
        self.calls += 1
        self.go.wait(60)
        return np.array([[0.75, 0.25]], dtype=np.float32)

def until(ready):
    for _ in range(3000):
        if ready(): return
        time.sleep(0.02)
    assert False

def waiting(address): return requests.get(f'{address}/health', timeout=60).json()['waiting']

def test_no_place_left():
    "Those that have one are answered in the end; the next one hears when to come back"
    with running(serve_app(model := Waits(), page=False, waiting=3)) as address, ThreadPoolExecutor(3) as ex:
        early = [ex.submit(asked, address, {'a.jpg':JPEG}) for _ in range(3)]
        until(lambda: waiting(address) == 3)
        late = asked(address, {'a.jpg':JPEG})
        refused(late, 503, 'ask again')
        assert int(late.headers['Retry-After']) > 0
        model.go.set()
        assert [o.result().json()['predictions'][0]['label'] for o in early] == ['a']*3 and waiting(address) == 0

def test_no_time_left():
    "What takes too long is given up; what waited behind it and is given up, too, is never computed"
    with running(serve_app(model := Waits(), page=False, seconds=0.5)) as address, ThreadPoolExecutor(3) as ex:
        for o in [ex.submit(asked, address, {'a.jpg':JPEG}) for _ in range(3)]: refused(o.result(), 503, '0.5 seconds')
        assert waiting(address) == 0 and model.calls == 1
        model.go.set()
        until(lambda: asked(address, {'a.jpg':JPEG}).status_code == 200)

def test_whoever_stops_sending(monkeypatch):
    "The place is free again after the time, or when the connection ends"
    monkeypatch.setattr(uploads, '_LINGER', 0.1)
    def begun(address):
        s = socket.create_connection(('127.0.0.1', int(address.rpartition(':')[2])))
        s.sendall(b'POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nContent-Length: 1000\r\n\r\n' + JPEG[:100])
        return s
    with running(serve_app(Waits(), page=False, seconds=60)) as address:
        with begun(address): until(lambda: waiting(address) == 1)
        until(lambda: waiting(address) == 0)
    with running(serve_app(Waits(), page=False, seconds=0.5)) as address, begun(address) as s:
        s.settimeout(60)
        assert b' 503 ' in s.recv(1000)

def test_many_at_once(address, folder):
    "Eight clients, ten requests each: each hears of its own picture"
    pictures = {f'{i}.jpg':saved(PHOTO.crop((20*i, 10*i, 100+20*i, 100+10*i)), 'jpeg') for i in range(8)}
    alone = {k:asked(address, {k:o}).json() for k,o in pictures.items()}
    def client(k):
        with requests.Session() as s: return [s.post(f'{address}/predict', files={k:(k, pictures[k])}).json() for _ in range(10)]
    with ThreadPoolExecutor(8) as ex:
        for k,answers in zip(pictures, ex.map(client, pictures)): assert answers == [alone[k]]*10

# The page

@needs_gradio
def test_the_page_says_the_same(page_address, folder):
    "Through Gradio's own doors: what a browser sends, and what a stranger may send instead"
    page,config = requests.get(page_address).text,requests.get(f'{page_address}/config').json()
    assert 'Flowers &amp; <temples>' not in page and config['title'] == 'Flowers & <temples>'
    def heard(o):
        body = dict(data=[o], fn_index=config['dependencies'][-1]['id'], session_hash=f'{time.time()}')
        requests.post(f'{page_address}/gradio_api/queue/join', json=body).raise_for_status()
        with requests.get(f'{page_address}/gradio_api/queue/data', params=dict(session_hash=body['session_hash']), stream=True) as r:
            for line in r.iter_lines():
                if b'process_completed' in line: return json.loads(line.partition(b':')[2])['output']
    def picture(path, **kwargs): return dict(path=path, meta={'_type':'gradio.FileData'}, **kwargs)
    path, = asked(page_address, {'a.jpg':JPEG}, '/gradio_api/upload').json()
    words,label = heard(picture(path))['data']
    top = asked(page_address, {'a.jpg':JPEG}).json()['predictions'][0]['top']
    assert words == f'## {top[0]["label"]}'
    assert [(o['label'], o['confidence']) for o in label['confidences']] == [tuple(o.values()) for o in top]
    half, = asked(page_address, {'half.jpg':JPEG[:2000]}, '/gradio_api/upload').json()
    assert 'half.jpg cannot be read as a picture' in heard(picture(half))['error']
    for o in (ROOT/'nbs'/'images'/'page.png', '/etc/passwd', 'https://example.com/cat.jpg', f'{path}/../../../../etc/passwd'):
        assert heard(picture(str(o)))['error'] == 'This is no upload: choose a picture'
    assert requests.get(f'{page_address}/gradio_api/file={folder/"config.json"}').status_code == 403

@needs_gradio
@pytest.mark.parametrize('name', ['a script named .jpg', 'a hundred megapixels', '10,000 files', 'more bytes than allowed'])
def test_uploads_are_checked_before_they_are_stored(page_address, name, tmp_path, monkeypatch):
    files,status,words = HOSTILE[name]
    there = Path(os.environ.get('GRADIO_TEMP_DIR') or Path(module.tempfile.gettempdir())/'gradio')
    before = set(there.rglob('*'))
    refused(asked(page_address, files, '/gradio_api/upload'), status, *words)
    assert set(there.rglob('*')) == before

@needs_gradio
def test_other_requests_are_small(page_address):
    refused(requests.post(f'{page_address}/gradio_api/queue/join', data=bytes(10**6)), 413, '0.25 MB')

def test_names_cannot_hide_markup():
    "Class names are a stranger's, where the model is"
    assert module._plain('<img src=x> | [a](b) *c*\n# d') == r'&lt;img src=x&gt; \| \[a\](b) \*c\* \# d'

# A Space

@needs_gradio
def test_a_space_runs(folder, tmp_path):
    "As it is written, in a process of its own; nothing in it that was not meant for others"
    shutil.copytree(folder, tmp_path/'model')
    (tmp_path/'model'/'notes.txt').write_text('private')
    space = write_space(tmp_path/'model', tmp_path/'space', 'Flowers: "mine"')
    assert {str(o.relative_to(space)) for o in space.rglob('*') if o.is_file()} == {
        '.gitattributes', 'README.md', 'app.py', 'requirements.txt', 'model/config.json', 'model/weights.safetensors', 'model/README.md',
        'model/examples/labels.json', *(f'model/examples/{o.name}' for o in (folder/'examples').glob('*.*g'))}
    facts = yaml.safe_load((space/'README.md').read_text(encoding='utf-8').split('---')[1])
    assert facts['title'] == 'Flowers: "mine"' and facts['sdk'] == 'gradio' and (space/facts['app_file']).exists()
    assert 'cnnfast[serve] @ git+https://github.com/cnnfast/cnnfast' in (space/'requirements.txt').read_text().splitlines()
    with socket.create_server(('127.0.0.1', 0)) as s: port = s.getsockname()[1]
    env = {**os.environ, 'GRADIO_SERVER_NAME':'127.0.0.1', 'GRADIO_SERVER_PORT':str(port), 'PYTHONPATH':str(ROOT)}
    with subprocess.Popen([sys.executable, '-W', 'ignore', 'app.py'], cwd=space, env=env, stdout=subprocess.PIPE, text=True) as p:
        try:
            assert f'127.0.0.1:{port}/predict' in p.stdout.readline()
            address = f'http://127.0.0.1:{port}'
            until(lambda: requests.get(address, timeout=60).ok)
            answer, = asked(address, {'a.jpg':JPEG}).json()['predictions']
            assert np.float32(answer['probability']) == load_model(folder, 'cpu').predict_proba([JPEG]).max()
            p.send_signal(signal.SIGINT)
            assert p.wait(60) == 0
        finally: p.kill()

@needs_gradio
def test_a_space_of_a_learner(learn, tmp_path):
    "Its card says what was measured"
    space = write_space(learn, tmp_path/'space')
    assert 'pictures right (test)' in (space/'README.md').read_text(encoding='utf-8')
    assert module.served_card(load_model(space/'model'))['measured']['pictures'] == len(learn.dls.test.items)

@needs_gradio
def test_nothing_private_in_a_space(folder, tmp_path):
    "A link in a stranger's model, and a file that only calls itself a picture"
    for name,spoil,words in (('link', lambda o: o.symlink_to(ROOT/'setup.py'), 'no file'),
                             ('text', lambda o: o.write_text('key'), 'no picture')):
        shutil.copytree(folder, model := tmp_path/name)
        (o := next((model/'examples').glob('00.*'))).unlink()
        spoil(o)
        with pytest.raises((ValueError, Refused), match=words): write_space(model, tmp_path/'space')
        assert not [o for o in tmp_path.iterdir() if 'space' in o.name]

@needs_gradio
def test_a_space_of_a_model_from_the_hub(folder, tmp_path):
    "Its client keeps files as links"
    blobs,there = tmp_path/'models--marie--flowers'/'blobs',tmp_path/'models--marie--flowers'/'snapshots'/'0f'
    shutil.copytree(folder, blobs)
    for o in blobs.rglob('*.*'):
        (link := there/o.relative_to(blobs)).parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(o)
    space = write_space(load_model(there, 'cpu'), tmp_path/'space')
    assert (space/'model'/'weights.safetensors').is_file() and not [o for o in space.rglob('*') if o.is_symlink()]

# The command

def test_options_reach_the_server(monkeypatch):
    heard = []
    monkeypatch.setattr(module, 'serve', lambda *args, **kwargs: heard.append((args, kwargs)))
    assert cnnfast_here('serve', 'm', '--no-page', '--port', 0, '--megapixels', 3).returncode == 0
    (args,kwargs), = heard
    assert args == ('m',) and kwargs['port'] == 0 and not kwargs['page'] and Limits(**{k:kwargs[k] for k in vars(Limits())}).megapixels == 3
    assert vars(Limits()) == {**{k:kwargs[k] for k in vars(Limits())}, 'megapixels':50}

def test_mistakes_get_a_sentence(folder, tmp_path, monkeypatch):
    (tmp_path/'mine').mkdir()
    fails_with(cnnfast_here('serve', tmp_path/'gone', '--no-page', '--port', 0), 'gone', 'does not exist')
    fails_with(cnnfast_here('serve', SAVED/'autoencoder', '--no-page', '--port', 0), 'autoencoder', 'names no classes')
    fails_with(cnnfast_here('serve', folder, '--no-page', '--port', 0, '--files', 0), 'files=0')
    fails_with(cnnfast_here('serve', folder, '--no-page', '--port', 99999), 'port 99999')
    fails_with(cnnfast_here('serve', folder, '--no-page', '--host', 'no such host', '--port', 0), 'no such host')
    fails_with(cnnfast_here('serve', folder, '--space', tmp_path/'mine'), 'mine', 'exists already')
    with socket.create_server(('127.0.0.1', 0)) as s:
        fails_with(cnnfast_here('serve', folder, '--no-page', '--port', s.getsockname()[1]), 'cannot be listened on', 'another port')
    monkeypatch.setattr(module.importlib.util, 'find_spec', lambda name: None if name == 'gradio' else True)
    fails_with(cnnfast_here('serve', folder), "[serve]'", '--no-page')
