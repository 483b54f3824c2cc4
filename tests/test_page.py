"The page that predicts: it sees what Python sees, says what Python says, and asks nobody."
import base64, csv, io, json, shutil, subprocess, tarfile
from dataclasses import replace
from pathlib import Path
import numpy as np
import pytest
import torch
from PIL import Image, features
from sklearn.datasets import load_sample_image
from conftest import cnnfast_here, fails_with
from test_report import BROWSER, needs_browser
from cnnfast.core.disk import cnnfast_home
from cnnfast.data.dataset import digits
from cnnfast.data.download import _extract
from cnnfast.data.folders import image_folder, sample_folder
from cnnfast.data.pictures import open_picture
from cnnfast.training.learner import scratch_learner
from cnnfast.interpretation.activations import PictureBatch
from cnnfast.interpretation.maps import occlusion_maps
from cnnfast.saving import export, page
from cnnfast.saving.folder import load_model, save_model
from cnnfast.saving.page import RUNTIME, page_html, runtime_files, write_page
from cnnfast.study.pipeline import compare

pytest.importorskip('onnxscript', reason='needs cnnfast[onnx]')
pytest.importorskip('onnxruntime', reason='needs cnnfast[onnx]')
# the page decodes JPEG as libjpeg-turbo 3.2 does; earlier ones differ by one level of 255 where they reduce
NEW_JPEG = tuple(map(int, (features.version('libjpeg_turbo') or '0').split('.')[:2])) >= (3, 2)
SCRIPTS = [Path(page.__file__).parent/o for o in ('jpeg.js', 'pictures.js')]

@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    "Others may have fetched the runtime"
    monkeypatch.setenv('CNNFAST_HOME', str(tmp_path_factory.mktemp('home')))

@pytest.fixture(scope='session')
def runtime(tmp_path_factory):
    "The runtime, through npm, which keeps what it has fetched"
    npm,there = shutil.which('npm'),tmp_path_factory.mktemp('runtime')
    if npm is None: pytest.skip('needs npm, for onnxruntime-web')
    pack = [npm, 'pack', f'onnxruntime-web@{RUNTIME}', '--prefer-offline']
    try: res = subprocess.run(pack, cwd=there, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired: pytest.skip('npm does not answer')
    if res.returncode: pytest.skip(f'npm cannot fetch onnxruntime-web: {res.stderr[:100]}')
    archive = there/res.stdout.split()[-1]
    with tarfile.open(archive) as t:
        for name,_ in page._FILES.values(): _extract(t, t.getmember(f'package/dist/{name}'), there, archive)
    return there

@pytest.fixture(scope='module')
def photos(tmp_path_factory): return sample_folder(tmp_path_factory.mktemp('photos')/'photos')

@pytest.fixture(scope='module')
def learn(photos):
    learn = scratch_learner(image_folder(photos, size=32).dataloaders(bs=64, device='cpu'), 'fast_cnn', widths=(16, 32, 32), seed=0)
    with learn.no_bar(), learn.no_logging(): learn.fit_linear(2)
    return learn

@pytest.fixture(scope='module')
def folder(learn, tmp_path_factory): return save_model(learn, tmp_path_factory.mktemp('model')/'m', examples=20)

@pytest.fixture(scope='module')
def path(folder, runtime, tmp_path_factory): return write_page(folder, tmp_path_factory.mktemp('page')/'model.html', runtime=runtime)

@pytest.fixture(scope='module')
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        camera = ['--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream']
        b = p.chromium.launch(executable_path=BROWSER, args=['--no-sandbox', *camera])
        yield b
        b.close()

def opened(browser, path, ready=True, before=None, **kwargs):
    "The page, opened without a network; what it asked for and what it complained of"
    context = browser.new_context(**kwargs)
    p = context.new_page()
    p.set_default_timeout(120_000) # it may be a slow machine
    p.asked,p.complaints = [],[]
    p.on('request', lambda o: p.asked.append(o.url))
    p.on('console', lambda o: p.complaints.append(o.text))
    p.on('pageerror', lambda o: p.complaints.append(str(o)))
    if before: before(context, p)
    p.goto(Path(path).as_uri())
    if ready: p.locator('html[data-ready=yes]').wait_for(state='attached')
    return p

def is_far(url): return url.startswith('https:')

DROP = '''async files => {
  const data = new DataTransfer(), n = cnnfast.results.length + files.length
  for (const [name, text] of files) data.items.add(new File([Uint8Array.from(atob(text), o => o.charCodeAt(0))], name))
  document.getElementById('drop').dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}))
  while (cnnfast.results.length < n) await new Promise(done => setTimeout(done, 5))
  await cnnfast.done
  return cnnfast.results.slice(-files.length).map(o => o.probabilities && [...o.probabilities])
}'''

def as_text(o): return base64.b64encode(o).decode()
def drop(p, files): return p.evaluate(DROP, [[k, as_text(o)] for k,o in files.items()])

def saved(im, kind, **kwargs):
    im.save(buf := io.BytesIO(), kind, **kwargs)
    return buf.getvalue()

def kinds_of_files():
    "Pictures as they come: name -> bytes"
    photo = Image.fromarray(load_sample_image('flower.jpg'))
    small,tall = photo.resize((200, 133)),photo.crop((100, 0, 300, 400))
    clear = small.convert('RGBA')
    clear.putalpha(Image.linear_gradient('L').resize(small.size))
    res = {'photo.jpg':saved(photo, 'jpeg', quality=90), 'tall.jpg':saved(tall, 'jpeg', subsampling=0),
           'odd.jpg':saved(photo.crop((3, 5, 94, 82)), 'jpeg'), 'large.jpg':saved(photo.resize((1500, 1001)), 'jpeg', quality=80),
           'progressive.jpg':saved(photo, 'jpeg', progressive=True, subsampling=1), 'grey.jpg':saved(photo.convert('L'), 'jpeg'),
           'restarts.jpg':saved(small, 'jpeg', restart_marker_blocks=3), 'cmyk.jpg':saved(small.convert('CMYK'), 'jpeg'),
           'photo.png':saved(small, 'png'), 'clear.png':saved(clear, 'png'), 'lines.png':saved(small.convert('1'), 'png'),
           'palette.png':saved(small.convert('P'), 'png', transparency=7), 'photo.webp':saved(small, 'webp', lossless=True),
           'photo.bmp':saved(small, 'bmp'), 'photo.gif':saved(small, 'gif')}
    for turn in range(2, 9):
        (exif := Image.Exif())[0x112] = turn
        for kind,how in dict(jpeg={}, png={}, webp=dict(lossless=True)).items():
            res[f'turned-{turn}.{kind}'] = saved(small, kind, exif=exif, **how)
    return res

OPEN = '''async ([text, size, channels, resize]) => {
  const {data} = await openPicture(Uint8Array.from(atob(text), o => o.charCodeAt(0)), {size, channels, resize})
  return btoa(Array.from(data, o => String.fromCharCode(o)).join(''))
}'''

@needs_browser
def test_pictures_are_opened_as_pillow_does(browser):
    "To the bit: every kind of file, upright, at a half and an eighth of its size, cut, padded, squished, in grey"
    p = browser.new_page()
    for o in SCRIPTS: p.add_script_tag(content=o.read_text(encoding='utf-8'))
    off = {}
    for name,data in kinds_of_files().items():
        for size,channels,resize in ((64, 3, 'crop'), (224, 3, 'pad'), (40, 1, 'squish')):
            ours = np.asarray(open_picture(data, size, channels, resize)).astype(int).ravel()
            theirs = np.frombuffer(base64.b64decode(p.evaluate(OPEN, [as_text(data), size, channels, resize])), np.uint8).astype(int)
            assert theirs.shape == ours.shape
            off[name,size] = np.abs(theirs-ours).max()
    p.close()
    allowed = {'clear.png':1} # the browser itself puts it on white
    if not NEW_JPEG: allowed.update({k:1 for k,_ in off if k.endswith(('.jpg', '.jpeg'))})
    assert not {k:o for k,o in off.items() if o > allowed.get(k[0], 0)}

@needs_browser
def test_says_what_python_says(browser, path, folder, photos, tmp_path):
    "Real pictures dropped on it: the same class for each, and the same probabilities; nothing is asked for, nothing goes wrong"
    p = opened(browser, path)
    p.context.set_offline(True)
    files = {o.name:o.read_bytes() for o in sorted(photos.rglob('*.png'))[::10]} | kinds_of_files()
    theirs = np.array(drop(p, files))
    for k,o in files.items(): (tmp_path/k).write_bytes(o)
    ours = load_model(folder, 'cpu').predict_proba([tmp_path/k for k in files])
    assert (theirs.argmax(1) == ours.argmax(1)).all() and np.abs(theirs-ours).max() < (0.002 if NEW_JPEG else 0.02)
    assert not p.complaints and [o for o in p.asked if not o.startswith(('blob:', 'data:'))] == [Path(path).as_uri()]
    assert p.locator('#list tbody tr').count() == len(files)
    p.context.close()

@needs_browser
def test_csv_is_that_of_the_command(browser, path, folder, photos, tmp_path):
    p,files = opened(browser, path),sorted((photos/'temple').glob('*.png'))[:4]
    drop(p, {o.name:o.read_bytes() for o in files} | {'a "note", of sorts.txt':b'no picture'})
    with p.expect_download() as saved_as: p.locator('#csv').click()
    rows = list(csv.reader(Path(saved_as.value.path()).read_text().splitlines()))
    ours = list(csv.reader(cnnfast_here('predict', folder, *files).stdout.splitlines()))
    assert rows[0] == ours[0] == ['file', 'label', 'probability'] and rows[-1] == ['a "note", of sorts.txt', '', '']
    for a,b in zip(rows[1:-1], ours[1:], strict=True):
        assert a[:2] == [Path(b[0]).name, b[1]] and abs(float(a[2])-float(b[2])) < 0.002
    assert p.locator('#problem').text_content() == 'a "note", of sorts.txt cannot be read as a picture.'
    p.context.close()

@needs_browser
def test_occlusion_map_is_that_of_python(browser, path, learn, photos):
    p,file = opened(browser, path),sorted((photos/'flower').glob('*.png'))[30]
    drop(p, {'a.png':file.read_bytes()})
    theirs = np.array(p.evaluate('cnnfast.occlusion(cnnfast.shown.picture, cnnfast.shown.probabilities, () => {}).then(o => [...o])'))
    x = torch.from_numpy(np.asarray(open_picture(file, 32)).copy()).permute(2, 0, 1)[None]
    shown = PictureBatch(export.as_classifier(learn).normalized(x), x.permute(0, 2, 3, 1).numpy()/255, None, learn.dls.vocab)
    ours = occlusion_maps(learn, shown)[0][0]
    assert np.abs(theirs.reshape(32, 32)-ours).max() < 0.01 and ours.max() > 0.02
    p.locator('#where').click()
    p.get_by_text('The brighter').first.wait_for()
    p.locator('#where').click()
    assert 'as the model sees it' in p.locator('#caption').text_content()
    p.context.close()

@needs_browser
def test_by_keyboard_on_a_phone(browser, path):
    "Examples, choosing, the table: each with a name, reached by Tab; nothing wider than the screen; what is found is announced"
    p = opened(browser, path, viewport=dict(width=390, height=800), has_touch=True, is_mobile=True)
    assert p.locator('#photo').is_visible() and p.locator('.examples button').count() == 12
    for _ in range(30):
        p.keyboard.press('Tab')
        if p.evaluate("document.activeElement.matches('.examples button')"): break
    p.keyboard.press('Enter')
    p.locator('#result').wait_for()
    p.wait_for_timeout(200)
    said = p.locator('[role=status]').text_content()
    assert said.startswith('example 1.png: ') and any(o in said for o in ('flower', 'temple'))
    assert p.locator('#tops li').count() == 2 and p.get_by_role('img', name='example 1.png, as the model sees it').is_visible()
    unnamed = '[...document.querySelectorAll("button, input, img, canvas, video, [role=region]")].filter(o => o.checkVisibility() && ' \
              '!(o.textContent.trim() || o.ariaLabel || o.alt !== undefined)).map(o => o.outerHTML)'
    assert p.evaluate(unnamed) == [] and p.evaluate('document.documentElement.scrollWidth') <= 390
    p.context.close()

@needs_browser
def test_chosen_and_pasted(browser, path, tmp_path):
    "Several files at once, a pasted picture; what holds none is said"
    p,files = opened(browser, path),kinds_of_files()
    for k in ('photo.jpg', 'tall.jpg'): (tmp_path/k).write_bytes(files[k])
    p.set_input_files('#files', [tmp_path/'photo.jpg', tmp_path/'tall.jpg'])
    p.get_by_text('2 pictures classified.').wait_for()
    paste = '''files => {
      const clipboardData = new DataTransfer()
      for (const text of files) clipboardData.items.add(new File([Uint8Array.from(atob(text), o => o.charCodeAt(0))], 'image.png'))
      document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData, bubbles: true}))
    }'''
    p.evaluate(paste, [as_text(files['photo.png'])])
    p.get_by_text('image.png: ').wait_for()
    names = p.locator('#list tbody tr td:first-child').all_text_contents()
    assert names == ['photo.jpg', 'tall.jpg', 'image.png']
    p.locator('#list tbody button').first.click() # the row shows its picture again
    p.get_by_role('img', name='photo.jpg, as the model sees it').wait_for()
    p.evaluate(paste, [])
    assert p.locator('#problem').text_content() == 'There is no picture in what was dropped or pasted.'
    p.locator('#clear').click()
    assert not p.locator('#all').is_visible() and not p.locator('#result').is_visible() and not p.complaints
    p.context.close()

@needs_browser
def test_camera(browser, path):
    "What it sees is classified while it runs; a picture of it lands in the table. Without one, a sentence"
    p = opened(browser, path)
    p.locator('#camera').click()
    p.locator('#result').wait_for()
    p.locator('#take').click()
    p.locator('#list tbody tr').wait_for()
    assert p.locator('#list tbody td').first.text_content() == 'camera 1' and not p.locator('#live').is_visible() and not p.complaints
    p.evaluate("() => { navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotFoundError') } }")
    p.locator('#camera').click()
    p.get_by_text('There is no camera that this page can use: choose a picture instead.').wait_for()
    p.context.close()

@needs_browser
@pytest.mark.parametrize('lacking', ['WebAssembly.validate = () => false', 'delete globalThis.WebAssembly'])
def test_old_browser(browser, path, lacking):
    p = opened(browser, path, ready=False, before=lambda context, p: p.add_init_script(lacking))
    p.get_by_text('This browser is too old to run the model').wait_for()
    assert p.locator('#problem').text_content().count('.') <= 3 and not p.complaints
    p.context.close()

@needs_browser
def test_unreadable_pictures(browser, path):
    "Cut off, empty, of another kind: a sentence, a row without a class, and the others are classified"
    p,files = opened(browser, path),kinds_of_files()
    odd = {'cut.jpg':files['photo.jpg'][:20_000], 'cut.png':files['photo.png'][:50], 'empty.jpg':b'', 'note.jpg':b'<b>no picture</b>'}
    for k,o in odd.items():
        assert drop(p, {k:o}) == [None]
        assert p.locator('#problem').text_content() == f'{k} cannot be read as a picture.'
        with pytest.raises(Exception): open_picture(o, 32)
    answers = drop(p, {**odd, 'photo.jpg':files['photo.jpg']})
    assert answers[:4] == [None]*4 and len(answers[4]) == 2
    assert p.locator('#problem').text_content() == '4 of 5 files cannot be read as pictures: they have no class in the table.'
    assert not p.complaints
    p.context.close()

@needs_browser
def test_says_that_it_does_not_know(browser, learn, runtime, photos, tmp_path):
    "Below the probability at which it was wrong at least as often as right; names of classes are no markup"
    c = replace(export.as_classifier(learn), classes=['<b>flower</b>', 'temple "</script>'])
    text = page_html(c, runtime=runtime, facts=dict(unsure_below=0.9999), pictures=photos/'temple', title='<i>')
    (tmp_path/'p.html').write_text(text, encoding='utf-8')
    p = opened(browser, tmp_path/'p.html')
    photo = kinds_of_files()['photo.jpg']
    answer, = drop(p, {'photo.jpg':photo})
    assert max(answer) < 0.9999 and p.locator('#answer').text_content() == 'I don’t know'
    assert 'it was wrong at least as often as right' in p.locator('#doubt').text_content()
    assert c.classes[int(np.argmax(answer))] in p.locator('#tops li').first.text_content() and p.locator('h1').text_content() == '<i>'
    p.context.close()

@needs_browser
def test_linked_page(browser, folder, runtime, tmp_path):
    "Small; asks the CDN for two files and no more, of which not a byte may differ; without a network, a sentence"
    path = write_page(folder, tmp_path/'p.html', link=True)
    assert path.stat().st_size < 2*10**6
    spoiled = []
    def serve(route):
        data = (runtime/'package'/'dist'/route.request.url.rsplit('/', 1)[-1]).read_bytes()
        route.fulfill(body=data + b' '*len(spoiled), headers={'access-control-allow-origin':'*'})
    p = opened(browser, path, before=lambda context, p: context.route(is_far, serve))
    assert len(drop(p, {'a.jpg':kinds_of_files()['photo.jpg']})[0]) == 2
    assert sorted(filter(is_far, p.asked)) == sorted(f'https://cdn.jsdelivr.net/npm/onnxruntime-web@{RUNTIME}/dist/{o}'
                                                     for o,_ in page._FILES.values())
    p.context.close()
    spoiled.append(1)
    for before in (lambda context, p: context.route(is_far, serve), lambda context, p: context.route(is_far, lambda o: o.abort())):
        p = opened(browser, path, ready=False, before=before)
        p.get_by_text('cdn.jsdelivr.net cannot be reached').wait_for()
        p.context.close()

# The report

@pytest.fixture
def at_hand(runtime):
    "The runtime in the cache"
    there = cnnfast_home()/'runtime'/RUNTIME
    there.mkdir(parents=True)
    for name,_ in page._FILES.values(): shutil.copy(runtime/'package'/'dist'/name, there)

@needs_browser
def test_report_holds_the_best_model(browser, at_hand, tmp_path):
    "Folded, until somebody opens it; within 25 MB; without it where that is asked for, and with a line where it cannot be"
    comparison = compare(digits(), ['cnn'], seeds=1, epochs=1, verbose=False, out=tmp_path/'out', try_it=False)
    before = (tmp_path/'out'/'report.html').read_text(encoding='utf-8')
    assert 'Try cnn' not in before and 'To try cnn' not in before
    path = comparison.report(tmp_path/'out'/'with.html')
    assert len(before) + 5*10**6 < path.stat().st_size < 25*10**6
    p = opened(browser, path, ready=False)
    assert not p.locator('iframe').count()
    p.locator('details.try > summary').click()
    frame = p.frame_locator('details.try iframe')
    frame.get_by_text('Ready.').wait_for()
    frame.locator('.examples button').first.click()
    frame.locator('#result').wait_for()
    assert frame.locator('#answer').text_content() and not p.complaints
    assert [o for o in p.asked if not o.startswith(('blob:', 'data:'))] == [path.as_uri()]
    p.context.close()
    shutil.rmtree(cnnfast_home()/'runtime')
    text = comparison.report(tmp_path/'out'/'without.html').read_text(encoding='utf-8')
    assert '<code>cnnfast page cnn/seed-0 --out model.html</code>' in text and len(text) < len(before) + 1000

# Exports

def test_a_quarter_of_the_size(folder, tmp_path):
    "16 bits are half, 8 to 12 bits 0.4 or less; each file says how it was compared"
    import onnx
    made = {k:export.export_onnx(load_model(folder, 'cpu'), tmp_path/f'{k}.onnx', k) for k in ('float32', 'int16', 'int8')}
    sizes = {k:sum(len(t.SerializeToString()) for t in onnx.load(o).graph.initializer) for k,o in made.items()}
    assert sizes['int16'] < 0.6*sizes['float32'] and sizes['int8'] < 0.45*sizes['float32']
    for o in made.values():
        facts = {k.key:k.value for k in onnx.load(o).metadata_props}
        assert json.loads(facts['classes']) == ['flower', 'temple'] and 'compared on 20 pictures: no other class' in facts['agreement']
        assert str(Path.home()) not in str(onnx.load(o)) # nothing of this machine

@pytest.mark.parametrize('change', [dict(resize='pad', normalize='picture'), dict(resize='squish', normalize=None)])
def test_every_way_of_opening_is_exported(learn, change):
    c = replace(export.as_classifier(learn), **change)
    pics = [Image.fromarray(load_sample_image('china.jpg')).crop((0, 0, 200+40*i, 300-10*i)) for i in range(6)]
    assert export.onnx_of(c, pictures=pics)[1].most < 0.01

def test_what_does_not_agree_is_not_written(folder, photos, tmp_path, monkeypatch, runtime):
    "More than 1 of 500 pictures with another class: one sentence, and no file"
    import onnx
    def spoiled(proto, bits):
        new = onnx.ModelProto(); new.CopyFrom(proto)
        for o in new.graph.initializer:
            if len(o.dims) > 1: o.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(o), o.name))
        return new
    monkeypatch.setattr(export, 'compacted', spoiled)
    for write in (lambda: write_page(folder, tmp_path/'p.html', runtime=runtime, pictures=photos),
                  lambda: export.export_onnx(load_model(folder, 'cpu'), tmp_path/'m.onnx', 'int16', photos)):
        with pytest.raises(ValueError, match=r'of 494 pictures another class \(at most 1 of 500 may have one\), so nothing is'): write()
    assert not list(tmp_path.iterdir())
    assert export.Agreement(500, 1, 0.1).good and not export.Agreement(500, 2, 0.1).good and not export.Agreement(1000, 3, 0.1).good

class Histogram(torch.nn.Module):
    def forward(self, x): return x - torch.histc(x, 5).max()

def test_model_without_onnx_form(learn, tmp_path):
    c = replace(export.as_classifier(learn), model=torch.nn.Sequential(learn.model, torch.nn.Sequential(torch.nn.ReLU(), Histogram())))
    with pytest.raises(ValueError, match=r'has no ONNX form: its layer 1\.1 \(Histogram\)'): export.export_onnx(c, tmp_path/'m.onnx')
    assert not list(tmp_path.iterdir())

def test_command(folder, runtime, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    res = cnnfast_here('page', folder, '--runtime', runtime, '--title', 'Flowers & temples', '--weights', 'int8', '--examples', 3)
    assert res.returncode == 0 and res.stdout.startswith('The page: model.html ('), res.stderr
    text = (tmp_path/'model.html').read_text(encoding='utf-8')
    assert '<h1>Flowers &amp; temples</h1>' in text and text.count('data:image/png') == 3 and not list(tmp_path.glob('.*'))
    for args,words in {
            (): ['model.html exists already', '--out'],
            ('--out', 'b.html', '--limit', 1, '--runtime', runtime): ['b.html would have', 'more than 1', "weights='int8'", 'link=True'],
            ('--out', 'b.html', '--weights', 'int4', '--link'): ["weights='int4' is not known", 'int16'],
            ('--out', 'b.html', '--runtime', tmp_path): ['holds no ort.wasm', f'npm pack onnxruntime-web@{RUNTIME}'],
            ('--out', 'b.html', '--link', '--pictures', 'nowhere'): ['nowhere does not exist']}.items():
        fails_with(cnnfast_here('page', folder, *args), *words)
    assert [o.name for o in tmp_path.iterdir()] == ['model.html']

def test_no_network_for_the_runtime(folder, tmp_path, monkeypatch):
    "It says where else the runtime comes from"
    monkeypatch.setattr(page, '_HOST', 'http://127.0.0.1:9')
    monkeypatch.setattr(page, 'RETRIES', 0)
    with pytest.raises(ConnectionError, match=r'could not be downloaded .*npm pack onnxruntime-web@'): write_page(folder, tmp_path/'p.html')
    assert not list(tmp_path.iterdir())

def test_run_without_a_network_for_the_runtime(tmp_path, monkeypatch, capsys):
    "By default the report holds the best model where it can; `--try` insists, and fails before anything is trained"
    from cnnfast.cli.main import main
    monkeypatch.setattr(page, '_HOST', 'http://127.0.0.1:9')
    monkeypatch.setattr(page, 'RETRIES', 0)
    fails_with(cnnfast_here('run', 'digits', '--models', 'ann', '--epochs', 1, '--out', tmp_path/'out', '--try'), 'could not be downloaded')
    assert not (tmp_path/'out').exists()
    assert main(['run', 'digits', '--models', 'ann', '--epochs', '1', '--seeds', '1', '--out', str(tmp_path/'out')]) == 0
    assert 'will not hold the model' in capsys.readouterr().out
    assert 'cnnfast page ann/seed-0' in (tmp_path/'out'/'report.html').read_text(encoding='utf-8')
