"Model cards, and models on the Hugging Face hub: a server on the loopback address plays the hub, and no other host is asked."
import json, re, shutil, socket, sys
import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, constants
from conftest import ROOT, cnnfast_here, fails_with
from hub import READS, WRITES, serve_hub
from cnnfast import Recipe, autoencoder_learner, digits, ensemble, evaluate, load_model, push_to_hub, save_model, scratch_learner
from cnnfast.saving.card import card_text
from cnnfast.saving.folder import model_card, read_config
from cnnfast.saving.hub import files_of
from cnnfast.study.run import run_recipe, save_run

SAVED = ROOT/'tests'/'saved'

@pytest.fixture(scope='module')
def data(): return digits()

@pytest.fixture(scope='module')
def learn(data):
    learn = scratch_learner(data.dataloaders(bs=64, device='cpu'), 'ann', seed=0)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2)
    return learn

@pytest.fixture(scope='module')
def pics(data): return np.stack([data.items[i].array for i in data.splits['test'][:20]])

@pytest.fixture(scope='module')
def folder(learn, tmp_path_factory): return save_model(learn, tmp_path_factory.mktemp('saved')/'model', evaluate(learn), examples=3)

@pytest.fixture
def home(tmp_path, monkeypatch):
    "A machine that has fetched nothing, on which nobody is logged in, and which reaches nothing but itself"
    for k,o in dict(HF_HUB_CACHE=str(tmp_path/'cache'), HF_TOKEN_PATH=str(tmp_path/'token'), HF_STORED_TOKENS_PATH=str(tmp_path/'tokens'),
                    HF_HUB_DISABLE_XET=True, HF_HUB_OFFLINE=False).items(): monkeypatch.setattr(constants, k, o)
    for o in ('HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN', 'HF_OIDC_RESOURCE', 'http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(o, raising=False)
    real = socket.getaddrinfo
    def near(host, *args, **kwargs):
        assert host in ('127.0.0.1', b'127.0.0.1'), f'{host} was asked for'
        return real(host, *args, **kwargs)
    monkeypatch.setattr(socket, 'getaddrinfo', near)
    return tmp_path

@pytest.fixture
def hub(home, monkeypatch):
    with serve_hub() as s:
        monkeypatch.setenv('HF_ENDPOINT', s.url)
        monkeypatch.setenv('HF_TOKEN', WRITES)
        yield s

def one_sentence(e, *words):
    text = str(e.value)
    assert '\n' not in text and len(text) < 250, text
    for o in words: assert o in text, (o, text)

def facts_of(text): return yaml.safe_load(text.split('---\n')[1])
def code_of(text): return re.search(r'```python\n(.*?)```', text, re.S)[1]

# ---------------------------------------------------------------- the card

def test_card_of_an_evaluation(folder, learn):
    "What the hub's own reader finds in it, and that every figure is the evaluation's"
    text,ev = (folder/'README.md').read_text(encoding='utf-8'),evaluate(learn)
    facts = ModelCard(text).data
    assert (facts.library_name, facts.pipeline_tag) == ('cnnfast', 'image-classification') and facts.license is None
    found = {o.metric_name:o.metric_value for o in facts.eval_results}
    assert found['accuracy'] == pytest.approx(ev.metrics['accuracy'], abs=1e-6) and found['macro F1'] == pytest.approx(
        ev.metrics['f1_macro'], abs=1e-6)
    assert {(o.dataset_name, o.dataset_split) for o in facts.eval_results} == {('digits', 'test')}
    low,high = ev.intervals(n_resamples=1).loc['accuracy', ['low', 'high']]
    assert f"**{ev.metrics['accuracy']:.1%}** of 179 pictures (test); 95% interval {low:.1%} to {high:.1%}" in text
    for name,recall in ev.per_class.recall.items(): assert f'| {name} | {recall:.0%} |' in text
    assert 'digits: 1,259 pictures to train on, 359 to choose by (valid), 179 to judge by (test).' in text
    for o in ('needed', 'None', 'nan', 'TODO', str(folder.parent)): assert o not in text

def test_code_of_the_card_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    exec(code_of((folder/'README.md').read_text(encoding='utf-8')), names := {})
    assert len(names['model'].predict(names['model'].folder/'examples')) == 3

def test_nothing_is_said_that_is_not_known(learn, tmp_path):
    text = (save_model(learn, tmp_path/'m')/'README.md').read_text(encoding='utf-8')
    assert 'How often it is right was not measured' in text and 'model-index' not in text
    for o in ('## How often', '## Training', 'Also', '%'): assert o not in text, o
    text = (save_model(learn, tmp_path/'n', dict(accuracy=0.5))/'README.md').read_text(encoding='utf-8')
    assert '**50.0%**' in text and 'interval' not in text and facts_of(text)['metrics'] == ['accuracy']

def test_card_of_a_run(data, tmp_path):
    "`cnnfast run` says how it was trained, too"
    save_run(run_recipe(Recipe('ann', epochs=1), data.dataloaders(bs=64, device='cpu')), folder := tmp_path/'ann', data)
    text,m = (folder/'README.md').read_text(encoding='utf-8'),json.loads((folder/'metrics.json').read_text())
    assert f"{m['accuracy']:.1%}" in text and '- epochs: 1\n' in text and '- optimiser: ' in text and 'right on valid' in text
    assert load_model(folder, 'cpu').data['name'] == 'digits'

def test_cards_of_other_kinds(learn, folder, tmp_path):
    other = scratch_learner(learn.dls, 'cnn', seed=0)
    ens = ensemble([learn, other])
    text = (save_model(ens, tmp_path/'e', ens.evaluate())/'README.md').read_text(encoding='utf-8')
    assert facts_of(text)['pipeline_tag'] == 'image-classification' and '| cnn |' in text and 'mean of the probabilities' in text
    assert 'digits: 1,259 pictures' in text and '95% interval' in text and (tmp_path/'e'/'member-01'/'README.md').is_file()
    ae = autoencoder_learner(other, width=8)
    text = (save_model(ae, tmp_path/'ae')/'README.md').read_text(encoding='utf-8')
    assert facts_of(text)['pipeline_tag'] == 'image-feature-extraction' and 'model.encode(' in text and 'predict' not in text

@pytest.mark.parametrize('kind', ['run/small/seed-0', 'ensemble', 'autoencoder'])
def test_card_of_an_older_folder(kind):
    "One that has no `README.md` loads, and its card can be made"
    assert not (SAVED/kind/'README.md').exists()
    text = card_text(model_card(load_model(SAVED/kind, 'cpu')))
    assert text == card_text(model_card(SAVED/kind)) or kind == 'autoencoder' # whose parameters only the model knows
    assert '## Versions' in text or kind == 'ensemble'

def test_names_are_text(learn, folder):
    "A class cannot put markup, a row or a link into the page"
    card = dict(model_card(folder), classes=['a|b', '<img src=x>', '[x](http://x)', 'two\n\n# lines'])
    text = card_text(card)
    assert 'a\\|b, \\<img src=x\\>, \\[x\\](http://x), two \\# lines' in text and '\n# lines' not in text

def test_many_classes_are_folded(folder):
    card = model_card(folder)
    rows = [dict(name=f'class {i}', recall=i/200, low=0., high=1., pictures=50) for i in range(200)]
    text = card_text({**card, 'classes':[o['name'] for o in rows], 'measured':{**card['measured'], 'classes':rows}})
    shown = text.split('<details><summary>All 200 classes')[0]
    assert '<details><summary>200 classes' in text and '| class 9 |' in shown and '| class 10 |' not in shown and '| class 199 |' in text

@pytest.mark.parametrize('text', ['{"confusion": [[1', '{"confusion": [[1]]}', '{"unsure_below": "<b>"}', '[]', '{"confusion": [[1], 1]}'])
def test_damaged_metrics_are_named(folder, tmp_path, text):
    copy = shutil.copytree(folder, tmp_path/'m')
    (copy/'metrics.json').write_text(text)
    with pytest.raises(ValueError, match='metrics.json says of the model is damaged'): model_card(copy)

# ---------------------------------------------------------------- there and back

def test_round_trip(hub, learn, folder, pics, tmp_path):
    "The same probabilities, to the bit; only what is of the model goes there"
    mine = shutil.copytree(folder, tmp_path/'mine')
    for o in ('evil.pkl', 'examples/evil.py', '.env'): (mine/o).write_text('x')
    assert push_to_hub(mine, 'marie/digits') == f'{hub.url}/marie/digits'
    there = hub.repos['marie/digits'][-1]
    assert set(there) == {'config.json', 'weights.safetensors', 'metrics.json', 'README.md', 'examples/labels.json',
                          *(f'examples/{i:02}.png' for i in range(3))} and hub.messages == ['Upload of a model']
    assert "load_model('hf://marie/digits')" in (text := there['README.md'].decode()) and "load_model('.')" not in text
    assert "load_model('.')" in (mine/'README.md').read_text(encoding='utf-8')
    c = load_model('hf://marie/digits', 'cpu')
    assert np.array_equal(c.predict_proba(pics), load_model(folder, 'cpu').predict_proba(pics))
    assert model_card(c)['measured'] == model_card(folder)['measured'] and len(list((c.folder/'examples').glob('*.png'))) == 3
    exec(code_of(text), names := {})
    assert names['model'].folder == c.folder

def test_learners_and_other_kinds(hub, learn, pics, tmp_path):
    "A learner is saved first, a model that was changed is saved anew, one that was loaded goes as it is, and an ensemble with its members"
    push_to_hub(learn, 'marie/learner', commit_message='First try')
    assert hub.messages == ['First try'] and 'metrics.json' not in hub.repos['marie/learner'][-1]
    c = load_model(save_model(learn, tmp_path/'m', evaluate(learn)), 'cpu')
    push_to_hub(c, 'marie/loaded')
    assert 'metrics.json' in hub.repos['marie/loaded'][-1]
    next(c.model.parameters()).data.add_(1)
    push_to_hub(c, 'marie/loaded')
    assert np.array_equal(load_model('hf://marie/loaded', 'cpu').predict_proba(pics), c.predict_proba(pics))
    ens = ensemble([learn, scratch_learner(learn.dls, 'ann', seed=1)])
    push_to_hub(ens, 'marie/ensemble', private=True)
    assert hub.private == {'marie/ensemble'}
    again = load_model('hf://marie/ensemble', 'cpu')
    assert np.array_equal(again.predict_proba(pics), load_model(ens.save(tmp_path/'e'), 'cpu').predict_proba(pics))
    push_to_hub(again, 'marie/again')
    assert set(hub.repos['marie/again'][-1]) == set(hub.repos['marie/ensemble'][-1])
    push_to_hub(SAVED/'run'/'small'/'seed-0', 'marie/older') # has no card
    assert facts_of(hub.repos['marie/older'][-1]['README.md'].decode())['library_name'] == 'cnnfast'

def test_only_files_of_a_model_are_fetched(hub, folder, pics):
    push_to_hub(folder, 'marie/digits')
    hub.repos['marie/digits'][-1].update({'evil.pkl':b'x', 'pytorch_model.bin':b'x', 'examples/evil.py':b'x', 'model.safetensors':b'x'})
    c = load_model('hf://marie/digits', 'cpu')
    assert files_of(c.folder) == files_of(folder) == sorted(o.relative_to(c.folder).as_posix() for o in c.folder.rglob('*') if o.is_file())
    assert not [o for _,o in hub.asked if 'evil' in o or o.endswith(('.bin', '/model.safetensors'))]

def test_revisions(hub, learn, folder, pics):
    "A commit stays what it was"
    push_to_hub(folder, 'marie/digits')
    first = hub.sha('marie/digits', 1)
    push_to_hub(scratch_learner(learn.dls, 'cnn', seed=0), 'marie/digits')
    assert load_model('hf://marie/digits', 'cpu').architecture['name'] == 'cnn'
    assert load_model(f'hf://marie/digits@{first}', 'cpu').architecture['name'] == 'ann'
    with pytest.raises(FileNotFoundError) as e: load_model('hf://marie/digits@v9')
    one_sentence(e, 'hf://marie/digits@v9', 'no such revision')

def test_tampered_weights(hub, folder):
    push_to_hub(folder, 'marie/digits')
    files = hub.repos['marie/digits'][-1]
    files['weights.safetensors'] = files['weights.safetensors'][:-1] + bytes([files['weights.safetensors'][-1] ^ 1])
    with pytest.raises(ValueError) as e: load_model('hf://marie/digits')
    one_sentence(e, 'hf://marie/digits/weights.safetensors was altered', 'checksum')

def test_command(hub, folder, tmp_path):
    "push, predict, submit"
    res = cnnfast_here('push', folder, 'marie/digits')
    assert res.returncode == 0 and f'{hub.url}/marie/digits' in res.stdout and 'hf://marie/digits' in res.stdout
    res = cnnfast_here('predict', 'hf://marie/digits', folder/'examples', '--device', 'cpu')
    assert res.returncode == 0 and len(res.stdout.splitlines()) == 4
    for models in (['hf://marie/digits'], ['hf://marie/digits', folder]):
        out = tmp_path/f'{len(models)}.csv'
        res = cnnfast_here('submit', *models, '--pictures', folder/'examples', '--out', out, '--device', 'cpu')
        assert res.returncode == 0 and len(out.read_text().splitlines()) == 4, res.stderr
    fails_with(cnnfast_here('predict', 'hf://marie/other', folder/'examples'), 'hf://marie/other does not exist, or is private')
    fails_with(cnnfast_here('push', tmp_path, 'marie/x'), 'config.json is missing')

# ---------------------------------------------------------------- what goes wrong

@pytest.mark.parametrize('address', ['hf://digits', 'hf://marie/digits/main', 'hf://', 'hf://../../x', 'hf://marie/x@', 'hf://marié/x'])
def test_addresses_that_are_none(home, address):
    with pytest.raises(ValueError) as e: load_model(address)
    one_sentence(e, address, 'hf://user/name')

def test_not_there_or_private(hub, folder, monkeypatch):
    push_to_hub(folder, 'marie/secret', private=True)
    with pytest.raises(FileNotFoundError) as e: load_model('hf://marie/nothing')
    one_sentence(e, 'hf://marie/nothing', 'or is private', 'hf auth login')
    monkeypatch.delenv('HF_TOKEN')
    with pytest.raises(FileNotFoundError) as e: load_model('hf://marie/secret') # 401
    one_sentence(e, 'hf://marie/secret', 'or is private', 'HF_TOKEN')

@pytest.mark.parametrize('status, error, word', [(401, FileNotFoundError, 'log in'), (403, PermissionError, 'with this token'),
                                                 (418, ConnectionError, '418')])
def test_answers_of_the_hub(hub, status, error, word):
    hub.status = status
    with pytest.raises(error) as e: load_model('hf://marie/digits')
    one_sentence(e, 'hf://marie/digits', word)

@pytest.mark.parametrize('files, word', [
    ({'README.md':b'x'}, 'holds no model of cnnfast'), ({'config.json':b'{"model_type": "bert"}'}, 'not the configuration of a model'),
    ({'pytorch_model.bin':b'x'}, 'holds no model of cnnfast'), ({'config.json':b'{'}, 'it is no JSON')])
def test_models_of_others(hub, files, word):
    hub.repos['marie/other'] = [files]
    with pytest.raises((ValueError, FileNotFoundError)) as e: load_model('hf://marie/other')
    one_sentence(e, 'hf://marie/other', word)

def test_without_a_network(home, monkeypatch, folder, pics):
    "What was fetched before is there; what was not is named"
    with serve_hub() as s:
        monkeypatch.setenv('HF_ENDPOINT', s.url); monkeypatch.setenv('HF_TOKEN', WRITES)
        push_to_hub(folder, 'marie/digits')
        before = load_model('hf://marie/digits', 'cpu').predict_proba(pics)
        s.repos['marie/other'] = s.repos['marie/digits']
    for offline in (False, True): # the server is gone
        monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', offline)
        assert np.array_equal(load_model('hf://marie/digits', 'cpu').predict_proba(pics), before)
        with pytest.raises(ConnectionError) as e: load_model('hf://marie/other')
        one_sentence(e, 'hf://marie/other', 'out of reach', 'HF_HUB_OFFLINE' if offline else 'Connect')
        with pytest.raises(ConnectionError) as e: push_to_hub(folder, 'marie/digits')
        one_sentence(e, 'marie/digits', 'out of reach')

def test_who_may_write(hub, folder, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', READS)
    with pytest.raises(PermissionError) as e: push_to_hub(folder, 'marie/digits')
    one_sentence(e, 'marie/digits', 'may not be written', 'log in')
    monkeypatch.delenv('HF_TOKEN')
    hub.asked.clear()
    with pytest.raises(PermissionError) as e: push_to_hub(folder, 'marie/digits')
    one_sentence(e, 'marie/digits', 'hf auth login')
    assert not hub.asked
    push_to_hub(folder, 'marie/digits', token=WRITES)

@pytest.mark.parametrize('name', ['digits', 'marie/digits/x', 'marie/di gits', 'marie/di--gits', 'hf://marie/digits', 'm/digits.git', None])
def test_names_that_are_none(hub, folder, name):
    with pytest.raises(ValueError) as e: push_to_hub(folder, name)
    one_sentence(e, str(name))
    assert not hub.asked and not hub.repos

def test_a_card_that_the_hub_refuses(hub, folder, tmp_path):
    "One that was edited by hand, before anything is sent"
    copy = shutil.copytree(folder, tmp_path/'m')
    card = copy/'README.md'
    card.write_text(card.read_text(encoding='utf-8').replace('---\n', '---\nlicense: none of yours\n', 1), encoding='utf-8')
    with pytest.raises(ValueError) as e: push_to_hub(copy, 'marie/digits')
    one_sentence(e, 'marie/digits', 'refuses', '"license"')
    assert hub.repos == {'marie/digits':[{}]}

def test_without_the_client(home, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    for f in (lambda: load_model('hf://marie/digits'), lambda: push_to_hub(folder, 'marie/digits')):
        with pytest.raises(ImportError) as e: f()
        one_sentence(e, 'pip install huggingface_hub')

def test_members_from_the_hub(hub, folder):
    push_to_hub(folder, 'marie/digits')
    assert ensemble(['hf://marie/digits', folder], device='cpu').names == ['ann digits', 'ann model']

def test_what_cannot_be_loaded_is_not_sent(hub, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path/'m')
    (copy/'weights.safetensors').write_bytes(b'x')
    with pytest.raises(ValueError, match='was altered'): push_to_hub(copy, 'marie/digits')
    assert not hub.repos and read_config(copy)
