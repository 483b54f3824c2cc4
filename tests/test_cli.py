"The command, from start to report, as a user runs it."
import json, re, time
import pandas as pd
import pytest
from conftest import CIFAR, cnnfast, cnnfast_here, fails_with, needs_cifar

TIMES = ['train_seconds', 'pictures_per_second', 'peak_memory_mb']

def test_embedded_default(tmp_path):
    "`cnnfast run`, but for a third of its epochs: four models, one of them pretrained, a report, without network; what is known wins"
    res = cnnfast('run', '--epochs', 3, cwd=tmp_path)
    assert res.returncode == 0, res.stderr
    out = tmp_path/'cnnfast-cifar10_sample'
    df = pd.read_csv(out/'results.csv').set_index('model')
    assert list(df.index) == ['ann', 'cnn', 'fast_cnn', 'tiny_resnet']
    assert df.accuracy.fast_cnn > df.accuracy.ann + 0.08 and df.accuracy.tiny_resnet > 0.55
    written = {'README.md', 'config.json', 'examples', 'history.csv', 'metrics.json', 'weights.safetensors'}
    for m in df.index: assert {o.name for o in (out/m/'seed-0').iterdir()} == written
    page = (out/'report.html').read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page) and len(page) < 4*2**20
    for o in ('Comparison', 'Confusion matrix of fast_cnn', 'Learning curves of ann', 'Report for each class', 'Sample training pictures',
              '95% interval', 'Pretraining: tiny_resnet', 'Trade-offs'):
        assert o in page
    assert not [o for o in out.rglob('.*')] # nothing half-written

def test_same_answer_twice(tmp_path):
    args = ('run', 'digits', '--models', 'cnn,fast_cnn', '--epochs', 2, '--seeds', 1, '--seed', 7)
    one,two = [pd.read_csv(tmp_path/o/'results.csv') for o,
               run in dict(one=cnnfast, two=cnnfast_here).items() if run(*args, '--out', tmp_path/o).returncode == 0]
    pd.testing.assert_frame_equal(one.drop(columns=TIMES), two.drop(columns=TIMES), check_exact=True)
    assert (one.seed == 7).all()

def test_own_folder_and_weights(photos, tmp_path):
    "A user's folder, a timm model from a checkpoint on disk, and its counterpart from scratch"
    from cnnfast.models.pretrained import create_model
    from cnnfast.models.weights import write_weights
    write_weights(create_model('test_resnet'), tmp_path/'w.safetensors')
    args = ('run', photos, '--models', 'cnn,test_resnet', '--epochs', 2, '--seeds', 1)
    res = cnnfast(*args, '--weights', f'test_resnet={tmp_path}/w.safetensors', '--out', tmp_path/'out')
    assert res.returncode == 0, res.stderr
    assert 'fine-tuned from a checkpoint' in (tmp_path/'out'/'report.html').read_text()
    assert json.loads((tmp_path/'out'/'test_resnet'/'seed-0'/'config.json').read_text())['data']['classes'] == ['flower', 'temple']

@needs_cifar
def test_real_cifar(cifar_2000, tmp_path):
    res = cnnfast('run', 'cifar10', '--path', cifar_2000, '--models', 'ann,cnn,fast_cnn', '--epochs', 4, '--seeds', 1, '--out',
                  tmp_path/'out')
    assert res.returncode == 0, res.stderr
    acc = pd.read_csv(tmp_path/'out'/'results.csv').set_index('model').accuracy
    assert acc.fast_cnn > acc.ann + 0.03 and acc.ann > 0.2
    config = json.loads((tmp_path/'out'/'cnn'/'seed-0'/'config.json').read_text())
    assert config['data']['pictures'] == dict(train=1440, valid=160, test=400)

@pytest.mark.parametrize('args,words', {
    'unknown data set': (['cifar-10'], ['no data set', 'cifar10']),
    'missing folder': (['cifar10', '--path', 'nowhere'], ['nowhere', 'does not exist']),
    'unknown model': (['--models', 'fast_cn'], ['fast_cn', 'fast_cnn']),
    'unknown timm model': (['--models', 'resnet_18'], ['resnet18']),
    'no weights file': (['--models', 'resnet18', '--weights', 'resnet18=gone.pth'], ['gone.pth', 'does not exist']),
    'weights without a name': (['--weights', 'gone.pth'], ['NAME=FILE']),
    'weights for another model': (['--models', 'cnn', '--weights', 'resnet18=a.pth'], ['resnet18', 'not among the models']),
    'no epochs': (['--epochs', '0'], ['--epochs']),
    'negative batch size': (['--bs', '-1'], ['--bs']),
    'batch larger than the data': (['--bs', '9999'], ['bs=9999', '1,600 training pictures']),
    'rate that diverges': (['--models', 'cnn', '--lr', '1e12', '--out', 'out'], ['became', 'epoch 1, batch', 'lower']),
    'size of nothing': (['--size', '0'], ['--size 0']),
    'path of digits': (['digits', '--path', '.'], ['digits', 'path']),
    'unknown augmentation': (['--augment', 'heavy'], ["augment='heavy' is not known", 'flip_crop']),
    'unknown way to balance': (['--balance', 'smote'], ["how='smote' is not known", 'oversample']),
    'unknown device': (['--device', 'toaster'], ['toaster']),
}.values())
def test_one_sentence(args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fails_with(cnnfast_here('run', *args), *words)
    assert not list(tmp_path.iterdir()) # nothing is left behind

def test_hub_out_of_reach(tmp_path):
    "A pretrained model without network: told before anything is trained, and at once"
    import os
    env = {**os.environ, 'HF_ENDPOINT': 'http://127.0.0.1:9', 'HF_HOME': str(tmp_path/'hf')}
    times = []
    for models in ('cnn,restnet18', 'cnn,resnet18'): # the first is refused without asking anybody, which takes what imports take
        start = time.time()
        res = cnnfast('run', '--models', models, '--out', tmp_path/'out', env=env)
        times.append(time.time()-start)
    fails_with(res, 'resnet18', 'weights=', 'pretrained=False')
    assert times[1] < 3*times[0] and not (tmp_path/'out').exists()

def test_out_exists(tmp_path):
    (tmp_path/'out').mkdir()
    (tmp_path/'out'/'mine.txt').write_text('precious')
    fails_with(cnnfast_here('run', '--out', tmp_path/'out'), 'exists already')
    assert (tmp_path/'out'/'mine.txt').read_text() == 'precious'

def test_usage_errors():
    assert cnnfast('fly').returncode == 2 and cnnfast().returncode == 2

def test_leaks_are_warned_of(photos, tmp_path):
    (photos/'temple'/'copy.png').write_bytes((photos/'flower'/'224-256.png').read_bytes())
    res = cnnfast_here('run', photos, '--models', 'cnn', '--epochs', 1, '--seeds', 1, '--out', tmp_path/'out')
    assert res.returncode == 0
    assert res.stderr.startswith('cnnfast: warning: photos: ')
    assert 'the same picture in two classes (1: flower/224-256.png = temple/copy.png)' in res.stderr

def test_table_balanced_and_augmented(photos, tmp_path):
    "A csv file, most of one class, with batches that draw both equally and mix them"
    files = [o for o in sorted(photos.rglob('*.png')) if o.parent.name == 'temple' or int(o.stem[:3]) < 64]
    pd.DataFrame(dict(file=[o.relative_to(photos) for o in files], label=[o.parent.name for o in files])).to_csv(photos/'labels.csv',
        index=False)
    out = tmp_path/'out'
    assert (res := cnnfast_here('run', photos/'labels.csv', '--models', 'cnn', '--epochs', 1, '--seeds', 1, '--balance', 'weighted',
                                '--augment', 'strong', '--slides', '--out', out)).returncode == 0, res.stderr
    assert (out/'report.pptx').stat().st_size > 50_000 and 'report.pptx' in res.stdout
    assert 'classes drawn evenly' in res.stdout and (out/'report.html').exists()
    config = json.loads((out/'cnn'/'seed-0'/'config.json').read_text())
    assert config['mix'] == 'cutmix' and config['data']['weighted'] and any('Cutout' in o for o in config['augment'])
