"What `check`, `summary` and `balance` say about data with known faults."
import os, subprocess, sys
import numpy as np
import pytest
from PIL import Image
from conftest import CIFAR, cnnfast, cnnfast_here, needs_cifar
from cnnfast.data.dataset import digits
from cnnfast.data.folders import image_folder, sample_folder

@pytest.fixture
def split(tmp_path):
    "Real pictures of 48×48 pixels in train/, valid/ and test/, which share none"
    root = tmp_path/'photos'
    sample_folder(root/'train', size=48)
    for k,start in dict(valid=0, test=5).items():
        for o in sorted((root/'train').rglob('*.png'))[start::10]:
            (root/k/o.parent.name).mkdir(parents=True, exist_ok=True)
            o.rename(root/k/o.parent.name/o.name)
    return root

def textured(folder): return max(sorted(folder.rglob('*.png')), key=lambda o: np.asarray(Image.open(o)).std())
def rows(found): return {(o.level, o.what):o.pictures for o in found.problems.itertuples()}
def named(found): return {frozenset((found._file(a), found._file(b))):k for a,b,k in zip(found.pairs.a, found.pairs.b, found.pairs.kind)}

def test_nothing_found(split):
    found = image_folder(split).check()
    assert found.ok and found.pairs.empty and 'nothing found' in repr(found)
    found.raise_for_errors()

@pytest.mark.parametrize('in_memory', [True, False])
def test_leaks_are_errors(split, in_memory):
    "An exact copy, and one that was resized, saved again and brightened"
    a,b = textured(split/'test'),textured(split/'valid')
    (split/'train'/'flower'/'copy.png').write_bytes(a.read_bytes())
    Image.open(b).resize((96, 96), Image.BICUBIC).point(lambda o: min(255, int(o*1.02))).save(split/'train'/'temple'/'again.jpg',
        quality=80)
    data = image_folder(split, size=48)
    with pytest.warns(UserWarning, match='leak: the same picture in train and in test'): found = data.check(in_memory=in_memory)
    assert not found.ok and len(data.splits['test']) == len(image_folder(split).splits['test'])
    pairs = named(found)
    assert pairs[frozenset((os.path.relpath(a, split), 'train/flower/copy.png'))] == 'exact'
    assert pairs[frozenset((os.path.relpath(b, split), 'train/temple/again.jpg'))] == 'near'
    assert rows(found)['error', 'leak: the same picture in train and in test'] == 1
    assert rows(found)['error', 'leak: nearly the same picture in train and in valid'] == 1
    with pytest.raises(ValueError, match='leak'): found.raise_for_errors()
    clean = data.without(found.extra)
    # the copies go, the held-out pictures stay
    assert len(clean) == len(data)-2 and len(clean.splits['train']) == len(data.splits['train'])-2
    assert clean.check(in_memory=in_memory).ok
    found.show()

def test_contradictions_blanks_and_broken_files(split):
    a = textured(split/'train'/'temple')
    (split/'train'/'flower'/'other.png').write_bytes(a.read_bytes())
    for i in range(3): Image.new('RGB', (48, 48), ('black', 'grey', 'red')[i]).save(split/'train'/'flower'/f'blank-{i}.png')
    (split/'train'/'flower'/'cut.png').write_bytes(a.read_bytes()[:900])
    with pytest.warns(UserWarning, match='in two classes'): found = image_folder(split).check()
    res = rows(found)
    assert res['error', 'the same picture in two classes'] == 1
    assert res['warning', 'of one colour'] == 3
    assert res['warning', 'cannot be read'] == 1
    assert res['warning', 'the same picture twice in train'] == 1 and len(found.pairs) == 1 # blank pictures are not called duplicates

def test_many_copies_of_one(split):
    a = textured(split/'train')
    for i in range(30): (split/'train'/'temple'/f'copy-{i}.png').write_bytes(a.read_bytes())
    data = image_folder(split)
    found = data.check()
    assert len(found.pairs) == 30 and len(found.extra) == 30 and len(data.without(found.extra)) == len(data)-30

def test_classes_too_small(split):
    (split/'train'/'cat').mkdir()
    for i in range(4):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(split/'train'/'cat'/f'{i}.png')
    with pytest.warns(UserWarning, match='no pictures of cat'): found = image_folder(split).check()
    assert found.problems.iloc[0]['such as'] == 'cat (4)' and found.ok

def test_grey_and_array_pictures():
    data = digits()
    twice = data.new(items=[*data.items, data.items[0]], targs=[*data.targs, data.targs[0]],
                     splits={**data.splits, 'test':[*data.splits['test'], len(data.items)]})
    with pytest.warns(UserWarning, match='leak'): found = twice.check()
    assert len(found.pairs) == 1 and data.check().ok and twice.check(in_memory=False).pairs.equals(found.pairs)

def test_summary(split):
    Image.new('L', (60, 20)).save(split/'train'/'flower'/'grey.png')
    data = image_folder(split, size=48)
    t = data.summary()
    assert list(t.index) == ['flower', 'temple', 'all'] and (t[['train', 'valid', 'test']].iloc[:2].values == data.counts.values).all()
    assert t.loc['flower', 'size'] == '48 to 60 × 20 to 48' and t.loc['flower', 'mode'] == 'RGB, L' and t.loc['temple', 'size'] == '48 × 48'
    assert t.loc['all', 'all'] == len(data) and abs(t.share[:2].sum()-1) < 1e-9

def test_command(split):
    assert cnnfast_here('check', split).returncode == 0
    (split/'train'/'flower'/'copy.png').write_bytes(textured(split/'test').read_bytes())
    res = cnnfast('check', split, '--csv', split.parent/'pairs.csv')
    assert res.returncode == 1 and 'error: leak: the same picture in train and in test (1)' in res.stdout
    assert 'copy.png' in (split.parent/'pairs.csv').read_text()

@needs_cifar
def test_real_cifar10_in_time_and_memory(tmp_path):
    "All 60,000 pictures with a planted copy, near copy and cut file: in less time than decoding them takes, and in 2 GB"
    code = f'''
import os, re, time; from pathlib import Path
from PIL import Image
from cnnfast.data.standard_sets import cifar10; import cnnfast.data.inspection
root = cifar10({str(CIFAR)!r}).path
import shutil; root = Path(shutil.copytree(root, {str(tmp_path/"c")!r}, copy_function=os.link))
test, train = sorted((root/"test"/"cat").iterdir()), sorted((root/"train"/"cat").iterdir())
(root/"train"/"cat"/"copy.jpg").write_bytes(test[0].read_bytes())
Image.open(train[7]).point(lambda o: min(255, round(o*1.02))).save(root/"train"/"cat"/"near.jpg", quality=85)
(root/"train"/"cat"/"cut.jpg").write_bytes(train[8].read_bytes()[:600])
data = cifar10(root)
start = time.perf_counter()
data.decoded()
middle = time.perf_counter()
found = data.check()
ratio = (time.perf_counter()-middle)/(middle-start)
name = lambda i: found.data.items[int(i)].name
pairs = {{(name(a), name(b)):k for a,b,k in zip(found.pairs.a, found.pairs.b, found.pairs.kind)}}
kinds = [k for p,k in pairs.items() if "copy.jpg" in p or "near.jpg" in p]
# in KB; ru_maxrss would begin with the size of the process that started this one
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(ratio, peak/2**20, ",".join(sorted(kinds)), ",".join(map(name, found.unreadable)))
'''
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert res.returncode == 0, res.stderr
    ratio,gb,kinds,cut = res.stdout.split()
    assert float(ratio) < 1 and float(gb) < 2 and kinds == 'exact,near' and cut == 'cut.jpg'
