"Ensembles and submissions: what is refused, what agrees, what is read and how often."
import tracemalloc, warnings, weakref
import numpy as np, pandas as pd
import pytest
import torch
from PIL import Image
from conftest import cnnfast_here, fails_with
from test_standard import write_cifar100
from cnnfast.data.dataset import digits
from cnnfast.data.folders import image_folder
from cnnfast.data.standard_sets import cifar100
from cnnfast.training.learner import scratch_learner
from cnnfast.evaluation.metrics import evaluate
from cnnfast.saving.folder import SavedModel, as_classifier, load_model, read_config, save_model, write_config
from cnnfast.ensembling.combining import COMBINATIONS, FITTED, combine_probs, fit_combination, given_weights
from cnnfast.ensembling.ensemble import Ensemble, ensemble
from cnnfast.ensembling.snapshots import Snapshots
from cnnfast.ensembling.submission import submission
import cnnfast.ensembling.members

def raises(exc, *words): return pytest.raises(exc, match='(?s)' + '.*'.join(words))
def quiet(learn, epochs=3):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs)
    return learn
def truth(learn, split=2):
    with learn.no_bar(), learn.no_logging(): return learn.get_preds(ds_idx=split)[0].numpy()

@pytest.fixture(scope='module')
def data(): return digits().subset(per_class=30)

@pytest.fixture(scope='module')
def learners(data):
    "Three models of other sizes, channels, statistics and architectures"
    return [quiet(scratch_learner(data.dataloaders(bs=30), 'cnn', seed=0), 6),
            quiet(scratch_learner(data.new(size=12, n_in=3).dataloaders(bs=30, normalize='picture'), 'cnn', seed=1), 3),
            quiet(scratch_learner(data.dataloaders(bs=30, normalize='none', in_memory=False, num_workers=0), 'ann', seed=2), 3)]

@pytest.fixture(scope='module')
def folders(learners, tmp_path_factory):
    root = tmp_path_factory.mktemp('models')
    return [save_model(o, root/f'seed-{i}') for i,o in enumerate(learners)]

# Combinations, by hand

# three members, two pictures, three classes
p = np.array([[[.7, .2, .1], [.3, .3, .4]], [[.1, .8, .1], [.5, .1, .4]], [[.2, .5, .3], [.4, .35, .25]]])
logs = np.log(p)

def test_means_by_hand():
    assert np.allclose(combine_probs('mean', logs), [[1/3, .5, .5/3], [.4, .25, .35]])
    geo = p.prod(0)**(1/3)
    assert np.allclose(combine_probs('logits', logs), geo/geo.sum(1, keepdims=True))
    assert np.allclose(combine_probs('given', logs, dict(weights=given_weights([2, 1, 1], 3))), [[.425, .425, .15], [.375, .2625, .3625]])

def test_votes_by_hand():
    "Ties go to the higher mean, and no hundredth of a vote outweighs one"
    votes = combine_probs('vote', logs)
    assert votes.argmax(1).tolist() == [1, 0]
    assert np.allclose(votes.sum(1), 1)
    assert np.allclose(votes, [[1/3, 2/3, 0], [2/3, 0, 1/3]], atol=0.01)
    two = np.log([[[.6, .4]], [[.1, .9]]])
    assert combine_probs('vote', two)[0].argmax() == 1 and combine_probs('vote', two[:,:,::-1])[0].argmax() == 0
    sure = np.log([[[.98, .01, .01]], [[.3, .4, .3]], [[.3, .4, .3]]])
    assert combine_probs('vote', sure)[0].argmax() == 1 and combine_probs('mean', sure)[0].argmax() == 0

def test_combined_a_part_at_a_time():
    "In parts as in one; further pictures need memory for the result, and for no copy of what the members say"
    rng = np.random.default_rng(0)
    targs = np.arange(12_000) % 300
    many = np.log(rng.dirichlet(np.ones(300), (3, 12_000)).astype(np.float32))
    fitted = {'weights':fit_combination('weights', many, targs)[0]}
    fitted['stack'] = dict(coef=rng.normal(size=(300, 900))/100, intercept=rng.normal(size=300), share=0.3)
    def peak(how, n):
        tracemalloc.start()
        try: return combine_probs(how, [o[:n] for o in many], fitted.get(how)),tracemalloc.get_traced_memory()[1]
        finally: tracemalloc.stop()
    for how in COMBINATIONS:
        (part,before),(whole,after) = peak(how, 8000),peak(how, 12_000)
        assert after-before < 1.3*(whole.nbytes-part.nbytes) and whole.dtype == np.float32
        np.testing.assert_allclose(whole[5000:5020], combine_probs(how, many[:,5000:5020], fitted.get(how)), rtol=1e-4)

def test_weights_lie_halfway_to_the_most_likely():
    "Halfway to equal ones; with ten pictures more for each member, as a search over all weights finds them"
    rng = np.random.default_rng(0)
    q = rng.dirichlet([1, 1, 1], (2, 200))
    targs = np.array([rng.choice(3, p=o) for o in q[0]]) # the first member knows
    fitted,probs = fit_combination('weights', np.log(q), targs)
    likes = q[:,np.arange(200),targs]
    grid = np.linspace(0.001, 0.999, 999)
    best = grid[np.argmax([np.log(w*likes[0] + (1-w)*likes[1]).sum() + 10*np.log(w) + 10*np.log(1-w) for w in grid])]
    assert abs(fitted['weights'][0]-(best+0.5)/2) < 0.002 and best > 0.7 and np.allclose(probs, np.tensordot(fitted['weights'], q, 1))

def test_stacking_learns_and_is_not_fooled():
    "A member that always confuses two classes is set right; pictures that it was fitted to do not count"
    rng = np.random.default_rng(0)
    targs = np.repeat(np.arange(4), 50)
    said = np.array([1, 0, 2, 3])[targs] # 0 and 1 changed over
    q = np.full((1, 200, 4), .1); q[0,np.arange(200),said] = .7
    fitted,apart = fit_combination('stack', np.log(q), targs)
    assert fitted['share'] > 0.9 and (combine_probs('stack', np.log(q), fitted).argmax(1) == targs).all()
    noise = np.log(rng.dirichlet(np.ones(4), (8, 200)))
    fitted,apart = fit_combination('stack', noise, targs)
    assert (apart.argmax(1) == targs).mean() < 0.4

# Members

def test_each_member_is_what_its_learner_is(learners, folders):
    "Other sizes, channels, statistics; in memory or not; from folders or not"
    for members in (learners, folders):
        ens = ensemble(members, dls=learners[0].dls, device='cpu')
        evs = ens.evaluations()
        for name,learn in zip(ens.names, learners): assert np.allclose(evs[name].probs, truth(learn), atol=1e-5)
        assert np.allclose(ens.probs(), np.mean([truth(o) for o in learners], axis=0), atol=1e-5)
        assert (ens.targs('test') == evaluate(learners[0]).targs).all()
    lazy = ensemble(learners[2])
    assert (lazy.targs('valid') == ensemble(learners[0]).targs('valid')).all()
    assert np.allclose(lazy.probs('valid'), truth(learners[2], 1), atol=1e-5)

def test_other_order_of_classes(data, learners):
    "Matched by name, wherever the ensemble takes its order from"
    order = np.random.default_rng(0).permutation(10)
    other = data.new(targs=np.argsort(order)[data.targs], vocab=[data.vocab[i] for i in order])
    turned = quiet(scratch_learner(other.dataloaders(bs=30), 'cnn', seed=5))
    a,b = ensemble([learners[0], turned]),ensemble([turned, learners[0]])
    assert a.classes == data.vocab and b.classes == other.vocab != data.vocab
    assert np.allclose(a.probs(), b.probs()[:,np.argsort(order)], atol=1e-6)
    assert a.evaluate().metrics['accuracy'] == b.evaluate().metrics['accuracy'] > 0.5
    for how in FITTED: # on other pictures, in another order, what was fitted still fits
        assert np.allclose(a.combine(how).fit().with_dataloaders(turned.dls).probs('test'), a.combine(how).probs('test'), atol=1e-5)

def test_loaded_one_at_a_time(folders, learners, monkeypatch):
    alive,most = [],[]
    def load(*args):
        most.append(sum(o() is not None for o in alive))
        c = load_model(*args)
        alive.append(weakref.ref(c.model))
        return c
    monkeypatch.setattr(cnnfast.ensembling.members, 'load_model', load)
    ens = ensemble(folders, dls=learners[0].dls)
    assert not most # so far only their configurations were read
    ens.combine('weights').evaluate()
    ens.predict(np.zeros((3, 8, 8), dtype=np.uint8))
    assert len(most) == 9 and max(most) == 0

def test_predicted_once(learners, monkeypatch):
    calls,outputs = [],SavedModel.outputs
    def counted(self, pics, *args): calls.append(len(pics)); return outputs(self, pics, *args)
    monkeypatch.setattr(SavedModel, 'outputs', counted)
    ens = ensemble(learners)
    for how in COMBINATIONS: ens.combine(how).table(); ens.combine(how).differences(); ens.combine(how).evaluate('valid')
    ens.combine([1, 1, 0]).contributions()
    assert sum(calls) == 3*(len(ens.targs('valid')) + len(ens.targs('test')))

def test_test_labels_are_not_read():
    dls = digits().subset(per_class=30).dataloaders(bs=30)
    learn = quiet(scratch_learner(dls, 'cnn', seed=0)), quiet(scratch_learner(dls, 'cnn', seed=1), 1)
    before = {how:ensemble(list(learn), how).fit().fitted for how in FITTED}
    dls.test.store.targs[dls.test.rows] = 0
    ens = ensemble(list(learn))
    assert all(ens.combine(how).fit().fitted == before[how] for how in FITTED) and ens.best == ens.names[0]
    dls.valid.store.targs[dls.valid.rows] = torch.arange(len(dls.valid.rows)) % 10
    assert all(ensemble(list(learn), how).fit().fitted != before[how] for how in FITTED)

def test_fitted_is_not_worse(learners):
    ens = ensemble(learners)
    acc = {how:ens.combine(how).evaluate().metrics['accuracy'] for how in COMBINATIONS}
    assert acc['mean'] > 0.7 and min(acc['weights'], acc['stack']) >= acc['mean'] - 0.02, acc

def test_several_views(data, photos):
    learn = quiet(scratch_learner(image_folder(photos, size=32).dataloaders(bs=64), 'fast_cnn', widths=(16, 32, 32), seed=0), 1)
    ens = ensemble(learn, tta=True)
    assert np.allclose(ens.probs(), evaluate(learn, multi_crop=True).probs, atol=1e-5)
    assert not np.allclose(ens.probs(), truth(learn), atol=1e-3)
    assert ens.name == 'fast_cnn, several views' and len(ens.table()) == 1

def test_what_could_go(data, learners):
    "The better of two members cannot be spared; an untrained one can"
    ens = ensemble([learners[0], scratch_learner(learners[0].dls, 'cnn', seed=9)], names=['good', 'untrained'])
    t = ens.table()
    assert t.loc['good', 'could_go'] == False and t.loc['good', 'without'] < -0.3 and t.loc['untrained', 'could_go'] == True
    assert t.loc['good', 'low'] < t.loc['good', 'accuracy'] < t.loc['good', 'high'] and ens.best == 'good'
    d = ens.differences()
    a,b = ens.evaluate(),ens.evaluations()['good']
    assert d.gained.sum()-d.lost.sum() == (a.preds == a.targs).sum()-(b.preds == b.targs).sum()
    assert d.attrs['mcnemar']['only_a'] == d.gained.sum()
    assert d.pictures.sum() == len(a.targs)
    assert ens.show_table().loc['good', 'could go'] == 'no' and ens.without('untrained').names == ['good']
    assert len(ens.combine([1, 0]).contributions()) == 1 # without the only one that counts there is nothing

# Folders

@pytest.mark.parametrize('how', [*COMBINATIONS, [3, 2, 1]], ids=str)
def test_saved_and_loaded(how, learners, folders, tmp_path):
    for i,members in enumerate((learners, [folders[0], *learners[1:]])):
        ens = ensemble(members, how) if i == 0 else ensemble(members, how, dls=learners[0].dls, device='cpu')
        again = load_model(ens.save(tmp_path/str(i)), 'cpu')
        assert isinstance(again, Ensemble) and again.names == ens.names and (again.fitted == ens.fitted or how == [3, 2, 1])
        assert np.allclose(again.with_dataloaders(learners[0].dls).probs('test'), ens.probs('test'), atol=1e-5)
        pics = learners[0].dls.test.store.pics[learners[0].dls.test.rows][:20]
        assert np.allclose(again.predict_proba(pics), ens.probs('test')[:20], atol=1e-5)
        assert list(again.predict(pics).label) == [ens.classes[o] for o in ens.probs('test').argmax(1)[:20]]
    with raises(FileExistsError, 'exists already'): ens.save(tmp_path/'0')
    with raises(FileExistsError, 'exists already'): save_model(ens, tmp_path/'0')
    assert not [o for o in tmp_path.rglob('.*')]

def test_damaged_ensemble(learners, tmp_path):
    folder = save_model(ensemble(learners, 'weights'), tmp_path/'e')
    w = folder/'member-02'/'weights.safetensors'
    w.write_bytes(w.read_bytes()[:-10])
    with raises(ValueError, 'altered, cut off or damaged'): load_model(folder).predict(np.zeros((2, 8, 8), dtype=np.uint8))
    config = read_config(folder)
    for harm in (lambda c: c.pop('how'), lambda c: c.update(fitted=None, how='given'), lambda c: c.update(names=3)):
        odd = dict(config); harm(odd)
        write_config(folder, **odd)
        with pytest.raises(ValueError): load_model(folder)
    write_config(folder, **{**config, 'names':[*config['names'], 'more']})
    with raises(FileNotFoundError, 'member-04 does not exist'): load_model(folder)

def test_folders_of_folders(folders, learners, tmp_path):
    ens = ensemble(folders[0].parent, dls=learners[0].dls)
    assert ens.names == ['cnn seed-0', 'cnn seed-1', 'ann seed-2']
    saved = ens.save(tmp_path/'e')
    with raises(ValueError, 'holds an ensemble'): ensemble([saved, folders[0]])
    (tmp_path/'empty').mkdir()
    with raises(FileNotFoundError, 'empty holds no model'): ensemble(tmp_path/'empty')

def test_snapshots(data, tmp_path):
    learn = scratch_learner(data.dataloaders(bs=30), 'cnn', seed=0, cbs=Snapshots(tmp_path/'s', every=2))
    for _ in range(2): quiet(learn, 3)
    evaluate(learn)
    assert sorted(o.name for o in (tmp_path/'s').iterdir()) == ['epoch-002', 'epoch-004', 'epoch-006']
    ens = ensemble(tmp_path/'s', dls=learn.dls, device='cpu')
    assert np.allclose(ens.evaluations()['cnn epoch-006'].probs, truth(learn), atol=1e-5)
    with raises(FileExistsError, 'holds something already'): quiet(scratch_learner(learn.dls, 'cnn', cbs=Snapshots(tmp_path/'s')), 1)
    with raises(ValueError, 'every=0'): Snapshots(tmp_path/'t', 0)

def test_snapshots_of_a_killed_training(data, tmp_path):
    "Killed between a snapshot and its checkpoint, it goes on and has all of them"
    from fastai.vision.all import Callback
    from cnnfast.training.checkpoints import Checkpoint
    class _Kill(Callback):
        order = 950
        def after_epoch(self):
            if self.epoch == 1: raise KeyboardInterrupt
    dls = data.dataloaders(bs=30)
    def learner(*cbs, **kwargs):
        return scratch_learner(dls, 'cnn', seed=0, cbs=[Snapshots(tmp_path/'s'), Checkpoint(tmp_path/'c.safetensors', **kwargs), *cbs])
    with pytest.raises(KeyboardInterrupt): quiet(learner(_Kill()))
    assert len(list((tmp_path/'s').iterdir())) == 2
    learn = quiet(learner(resume=True))
    ens = ensemble(tmp_path/'s', dls=dls, device='cpu')
    assert len(ens.names) == 3 and np.allclose(ens.evaluations()['cnn epoch-003'].probs, truth(learn), atol=1e-5)

# What is refused

def test_bad_members(learners, folders, tmp_path):
    with raises(ValueError, 'No members'): ensemble([])
    with raises(ValueError, 'int is no member'): ensemble([3])
    with raises(FileNotFoundError, 'nowhere does not exist'): ensemble([folders[0], tmp_path/'nowhere'])
    with raises(ValueError, 'need as many different names'): ensemble(learners, names=['a', 'b'])
    with raises(ValueError, "no member 'cnn'", 'did you mean ann'): ensemble(learners).without('cnn')
    with raises(ValueError, 'No members'): ensemble(learners).without('cnn (1)', 'cnn (2)', 'ann')

def test_other_classes(data, learners, photos):
    some = scratch_learner(data.subset(classes=['1', '2', '7']).dataloaders(bs=30), 'cnn')
    with raises(ValueError, 'cnn \\(2\\) has other classes than', 'lacks 0, 3, 4 and 4 more'): ensemble([learners[0], some])
    other = scratch_learner(image_folder(photos, size=8).dataloaders(bs=30), 'cnn')
    with raises(ValueError, 'other classes', 'lacks 0, 1', 'has flower, temple'): ensemble([learners[0], other], dls=learners[0].dls)
    with raises(ValueError, 'The pictures', 'other classes than cnn'): ensemble(as_classifier(learners[0])).with_dataloaders(other.dls)

def test_other_pictures(learners):
    other = scratch_learner(digits(seed=1).dataloaders(bs=30), 'cnn')
    with raises(ValueError, 'cnn \\(2\\) was made with other pictures in valid'): ensemble([learners[0], other])

def test_weights_that_are_no_numbers(learners, tmp_path):
    bad = scratch_learner(learners[0].dls, 'cnn')
    list(bad.model.parameters())[0].data[0] = np.inf
    with raises(ValueError, 'cnn has weights that are NaN or infinite'): ensemble([bad, learners[1]])
    folder = save_model(bad, tmp_path/'bad')
    with raises(ValueError, 'cnn bad has weights that are NaN or infinite'): ensemble([folder]).predict(np.zeros((2, 8, 8), dtype=np.uint8))
    for p in bad.model.parameters(): p.data.fill_(1e30)
    with raises(ValueError, 'cnn puts out NaN or infinite'): ensemble(bad).probs()

@pytest.mark.parametrize('how,words', [([1, 2], '2 weights for 3'), ([1, np.nan, 1], 'finite'), ([1, -1, 1], 'below 0'),
                                       ([0, 0, 0], 'above it'), ('meen', 'did you mean mean'), ('given', 'is not known')], ids=str)
def test_bad_combinations(how, words, learners):
    with raises(ValueError, words): ensemble(learners, how)

def test_too_small_to_fit(data, learners, folders):
    little = data.subset(per_class=2, splits='valid').dataloaders(bs=30)
    cs = [as_classifier(o) for o in learners]
    with raises(ValueError, 'valid has 20 pictures, too few to weigh 3 members: it takes 30', "how='mean'"):
        ensemble(cs, 'weights', dls=little)
    with raises(ValueError, 'valid has 2 pictures of 0, too few for stacking: it takes 3'): ensemble(cs, 'stack', dls=little)
    with raises(ValueError, 'fitted on valid: give dls='): ensemble(folders, 'weights')
    with raises(ValueError, 'knows no data'): ensemble(folders).evaluate()
    with raises(ValueError, "no split 'tset'"): ensemble(learners).evaluate('tset')

# Submissions

@pytest.fixture(scope='module')
def contest(data, tmp_path_factory):
    "A folder of test pictures called 000 to 178, and their classes"
    folder = tmp_path_factory.mktemp('contest')/'pictures'
    folder.mkdir()
    for i,o in enumerate(data.splits['test']): Image.fromarray(data.items[int(o)].array).save(folder/f'{i:03}.png')
    return folder,data.targs[data.splits['test']]

@pytest.mark.parametrize('kind', ['learner', 'classifier', 'ensemble', 'folder'])
def test_submission(kind, learners, folders, contest, tmp_path):
    folder,targs = contest
    model = dict(learner=learners[0], classifier=as_classifier(learners[0]), ensemble=ensemble(learners[0]), folder=folders[0])[kind]
    t = submission(model, folder, tmp_path/'s.csv')
    lines = (tmp_path/'s.csv').read_text().splitlines()
    assert lines[0] == 'id,label' and lines[1] == f'000,{t.label[0]}' and len(lines) == len(targs)+1
    assert list(t.label.astype(int)) == truth(learners[0]).argmax(1).tolist()
    with raises(FileExistsError, 's.csv exists already'): submission(model, folder, tmp_path/'s.csv')

def test_pictures_without_files(data, learners, tmp_path):
    from cnnfast.data.pictures import Picture, take_items
    hidden = data.new(splits={k:data.splits[k] for k in ('train', 'valid')},
                      unlabelled=[Picture(o.array) for o in take_items(data.items, data.splits['test'])])
    t = submission(learners[0], hidden, tmp_path/'a.csv')
    assert list(t.id) == [str(i) for i in range(len(t))] and list(t.label.astype(int)) == truth(learners[0]).argmax(1).tolist()
    assert submission(learners[0], hidden.dataloaders(bs=30), tmp_path/'b.csv').equals(t)
    for o in (data, data.dataloaders(bs=30)):
        with raises(ValueError, 'has no pictures without labels'): submission(learners[0], o, tmp_path/'c.csv')

@pytest.fixture(scope='module')
def colours(tmp_path_factory):
    "Models that do not know better, of classes whose names are no numbers"
    pics = [('red', (200, 0, 0)), ('green', (0, 200, 0)), ('blue', (0, 0, 200))]
    root = tmp_path_factory.mktemp('colours')
    for name,c in pics:
        (root/'train'/name).mkdir(parents=True)
        for i in range(12): Image.new('RGB', (8, 8), tuple(min(255, o+5*i) for o in c)).save(root/'train'/name/f'{i}.png')
    (root/'test').mkdir()
    for i,(_,c) in enumerate(pics*2): Image.new('RGB', (8, 8), tuple(o+1+i for o in c)).save(root/'test'/f'{10*i}.png')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn = quiet(scratch_learner(image_folder(root).dataloaders(bs=8), 'ann', seed=0), 15)
    return root,[save_model(learn, root.parent/'models'/'seed-0'),save_model(learn, root.parent/'models'/'seed-1')]

def sample(tmp_path, ids, labels, header=('Id', 'Category')):
    pd.DataFrame({header[0]:ids, header[1]:labels}).to_csv(tmp_path/'sample.csv', index=False)
    return tmp_path/'sample.csv'

@pytest.mark.parametrize('end,labels,want', [('', 'blue', 'names'), ('.png', 0, 'numbers'), ('', '', 'names')])
def test_sample(end, labels, want, colours, tmp_path):
    "Header, order, ids with or without the ending, names or numbers"
    root,(model,_) = colours
    ids = [f'{o}{end}' for o in (50, 0, 10, 40, 20, 30)]
    t = submission(model, root/'test', tmp_path/'s.csv', sample(tmp_path, ids, labels))
    names = ['blue', 'red', 'green', 'green', 'blue', 'red']
    assert list(t.columns) == ['Id', 'Category'] and list(t.Id) == ids
    assert list(t.Category) == (names if want == 'names' else [['blue', 'green', 'red'].index(o) for o in names])
    assert (tmp_path/'s.csv').read_text().splitlines()[1] == f'{ids[0]},{names[0] if want == "names" else 0}'
    # files sorted by name: red, green, blue, …
    assert list(submission(model, root/'test', tmp_path/'n.csv', labels='numbers').label) == [2, 1, 0, 2, 1, 0]

@pytest.mark.parametrize('ids,labels,words', {
    'others': ([0, 10, 20, 30, 40, 60], 'red', ['other ids than the pictures', '1 are of no picture .60.',
                                                '1 pictures are not in it .50.']),
    'too few': ([0, 10], 'red', ['other ids', '4 pictures are not in it .20, 30, 40 and 1 more']),
    'twice': ([0, 0, 10, 20, 30, 40, 50], 'red', ['names 1 ids more than once: 0']),
    'unknown label': ([0, 10, 20, 30, 40, 50], 'read', ["label 'read', which is no class", 'did you mean red'])}.values())
def test_bad_sample(ids, labels, words, colours, tmp_path, monkeypatch):
    root,(model,_) = colours
    monkeypatch.setattr(SavedModel, 'outputs', None) # refused before any work starts
    with raises(ValueError, *words): submission(model, root/'test', tmp_path/'s.csv', sample(tmp_path, ids, labels))
    assert not (tmp_path/'s.csv').exists()

def test_bad_submissions(colours, tmp_path, monkeypatch):
    root,(model,_) = colours
    with raises(FileNotFoundError, 'gone.csv does not exist'): submission(model, root/'test', tmp_path/'s.csv', tmp_path/'gone.csv')
    with raises(ValueError, 'has 1 columns'):
        (tmp_path/'one.csv').write_text('id\n1'); submission(model, root/'test', tmp_path/'s.csv', tmp_path/'one.csv')
    with raises(ValueError, "labels='words' is not known"): submission(model, root/'test', tmp_path/'s.csv', labels='words')
    with raises(FileNotFoundError, 'nowhere does not exist'): submission(model, root/'test', tmp_path/'nowhere'/'s.csv')
    with raises(ValueError, '12 ids stand for more than one picture'): submission(model, root/'train', tmp_path/'s.csv')
    (tmp_path/'p').mkdir()
    for i in range(2): (tmp_path/'p'/f'{i}.png').write_bytes((root/'test'/'0.png').read_bytes()[:None if i else 30])
    with warnings.catch_warnings(), raises(ValueError, '1 pictures cannot be read', '0.png'):
        warnings.simplefilter('ignore')
        submission(model, tmp_path/'p', tmp_path/'s.csv')
    assert not list(tmp_path.glob('*s.csv*'))

# The command

def test_command(colours, tmp_path):
    root,models = colours
    res = cnnfast_here('submit', *models, '--pictures', root/'test', '--out', tmp_path/'a.csv')
    assert res.returncode == 0 and '6 pictures labelled' in res.stdout, res.stderr
    assert (tmp_path/'a.csv').read_text().splitlines()[:3] == ['id,label', '0,red', '10,green']
    res = cnnfast_here('submit', models[0].parent, '--pictures', root, '--how', 'weights', '--tta', '--sample',
                       sample(tmp_path, [50, 0, 10, 40, 20, 30], 1), '--out', tmp_path/'b.csv')
    assert res.returncode == 2 and 'too few to weigh' in res.stderr # 7 pictures are in valid
    res = cnnfast_here('submit', models[0].parent, '--pictures', root, '--how', 'stack', '--out', tmp_path/'b.csv')
    fails_with(res, 'too few for stacking')
    assert cnnfast_here('submit', models[0].parent, '--pictures', root, '--how', 'vote', '--sample', tmp_path/'sample.csv', '--out',
                        tmp_path/'b.csv').returncode == 0
    assert (tmp_path/'b.csv').read_text().splitlines()[:3] == ['Id,Category', '50,0', '0,2']
    whole = save_model(ensemble(models), tmp_path/'ensemble')
    assert cnnfast_here('submit', whole, '--pictures', root/'test', '--out', tmp_path/'c.csv', '--labels', 'numbers').returncode == 0
    assert (tmp_path/'c.csv').read_text().splitlines()[1] == '0,2'
    assert cnnfast_here('predict', whole, root/'test'/'0.png').stdout.splitlines()[1].split(',')[1] == 'red'
    fails_with(cnnfast_here('submit', whole, '--how', 'vote', '--pictures', root/'test', '--out', tmp_path/'d.csv'), 'holds an ensemble')
    fails_with(cnnfast_here('submit', *models, '--pictures', root/'test', '--out', tmp_path/'a.csv'), 'exists already')
    fails_with(cnnfast_here('submit', *models, '--pictures', root/'test', '--how', 'weights', '--out', tmp_path/'d.csv'), 'has none',
               '--how mean')
    fails_with(cnnfast_here('submit', *models, '--pictures', root/'test', '--how', 'men', '--out', tmp_path/'d.csv'), "how='men'", 'mean')
    fails_with(cnnfast_here('submit', *models, '--pictures', 'digits', '--out', tmp_path/'d.csv'), 'digits has no pictures without labels')
    fails_with(cnnfast_here('submit', tmp_path/'gone', '--pictures', root/'test', '--out', tmp_path/'d.csv'), 'gone does not exist')
    assert not (tmp_path/'d.csv').exists()

def test_command_fits_weights(photos, tmp_path):
    "On the validation pictures of the user's data, for pictures in its test folder"
    for name in ('flower', 'temple'):
        (tmp_path/'own'/'train').mkdir(parents=True, exist_ok=True); (photos/name).rename(tmp_path/'own'/'train'/name)
    (tmp_path/'own'/'test').mkdir()
    for i,o in enumerate(sorted((tmp_path/'own'/'train'/'temple').iterdir())[:5]): o.rename(tmp_path/'own'/'test'/f'{i}.png')
    dls = image_folder(tmp_path/'own').dataloaders(bs=64)
    for i in range(2): save_model(quiet(scratch_learner(dls, 'ann', seed=i), 1), tmp_path/'models'/str(i))
    for how in ('weights', 'stack'):
        res = cnnfast_here('submit', tmp_path/'models', '--pictures', tmp_path/'own', '--how', how, '--tta', '--out', tmp_path/f'{how}.csv')
        assert res.returncode == 0, res.stderr
        assert [o.split(',')[0] for o in (tmp_path/f'{how}.csv').read_text().splitlines()] == ['id', '0', '1', '2', '3', '4']

def test_command_on_cifar100(tmp_path):
    "The test pictures of the split that competitions use"
    path = write_cifar100(tmp_path/'cifar-100-python')
    save_model(scratch_learner(cifar100(path, split='kaggle').dataloaders(bs=32), 'cnn', seed=0), tmp_path/'m')
    assert (res := cnnfast_here('submit', tmp_path/'m', '--pictures', 'cifar100', '--path', path, '--out',
                                tmp_path/'s.csv')).returncode == 0, res.stderr
    t = pd.read_csv(tmp_path/'s.csv')
    assert list(t.id) == list(range(400)) and t.label.str.startswith('fine_').all()

def test_trained_on_another_split(tmp_path):
    "Folders that say what they were trained on, beside other pictures"
    from cnnfast.study.pipeline import compare
    compare(digits(), ['cnn'], seeds=1, epochs=1, out=tmp_path/'run', verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        ens = ensemble(tmp_path/'run'/'cnn', dls=digits().dataloaders(bs=30))
    with pytest.warns(UserWarning, match='cnn seed-0: trained on other pictures than those of train'):
        ens.with_dataloaders(digits(seed=1).dataloaders(bs=30))
