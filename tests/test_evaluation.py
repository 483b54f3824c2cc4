"Metrics agree with scikit-learn; undefined ones are said to be; figures draw what they say, without overlapping labels."
import itertools, time, tracemalloc
import numpy as np, pytest, sklearn.metrics as skm
from cnnfast.data.dataset import digits
from cnnfast.training.learner import scratch_learner
from cnnfast.evaluation.intervals import area_interval, pooled_areas, precision_area, roc_area
from cnnfast.evaluation.metrics import Evaluation, evaluate
from cnnfast.evaluation.mistakes import split_pictures
import matplotlib.pyplot as plt

def simulated(n, c, seed=0, right=0.6):
    "Probabilities and targets of a model that is right in about `right` of the cases, and sure of itself"
    rng = np.random.default_rng(seed)
    targs = rng.integers(0, c, n)
    noise,hit = rng.normal(size=(n, c)),rng.random(n) < right
    others = (targs+rng.integers(1, 4, n)) % c
    z = noise + np.log(c)*(np.arange(c) == np.where(hit, targs, others)[:,None])*2
    return np.exp(z)/np.exp(z).sum(1, keepdims=True),targs

def evaluation(n, c, **kwargs): return Evaluation(*simulated(n, c, **kwargs), [f'class {i:03}' for i in range(c)], 'model')

@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')

@pytest.mark.parametrize('c', (2, 10, 200))
def test_metrics_are_those_of_sklearn(c):
    ev = evaluation(3000, c)
    p,hot = ev.probs,np.eye(c)[ev.targs]
    for avg in ('macro', 'weighted'):
        for k,f in dict(precision=skm.precision_score, recall=skm.recall_score, f1=skm.f1_score).items():
            assert ev.metrics[f'{k}_{avg}'] == pytest.approx(f(ev.targs, ev.preds, average=avg), abs=1e-9)
    assert ev.metrics['accuracy'] == pytest.approx(skm.accuracy_score(ev.targs, ev.preds), abs=1e-9)
    if c > 5: assert ev.metrics['top5_accuracy'] == pytest.approx(skm.top_k_accuracy_score(ev.targs, p, k=5), abs=1e-9)
    auc,ap = ev.roc().table.AUC,ev.precision_recall().table['average precision']
    assert auc['micro'] == pytest.approx(skm.roc_auc_score(hot.ravel(), p.ravel()), abs=1e-9)
    assert ap['micro'] == pytest.approx(skm.average_precision_score(hot.ravel(), p.ravel()), abs=1e-9)
    each = [skm.roc_auc_score(hot[:,i], p[:,i]) for i in range(c)],[skm.average_precision_score(hot[:,i], p[:,i]) for i in range(c)]
    for mine,theirs in zip((auc, ap), each):
        assert mine[ev.vocab].values == pytest.approx(theirs, abs=1e-9)
        assert mine['macro'] == pytest.approx(np.mean(theirs), abs=1e-9)

def test_areas_cover_the_truth():
    "The 95% intervals of AUC and average precision hold the value of a large sample in 93 to 97% of 1,000 small ones"
    areas = (roc_area, precision_area)
    def macro(ev, f):
        hot = np.eye(3, dtype=bool)[ev.targs]
        found = [f(hot[:,i], ev.probs[:,i]) for i in range(3)]
        return np.mean([o[0] for o in found]),np.mean([o[1] for o in found], axis=0)
    want,inside = [macro(evaluation(200_000, 3, seed=1), f)[0] for f in areas],[]
    for k in range(1000):
        lims = [area_interval(*macro(evaluation(300, 3, seed=10+k), f)) for f in areas]
        inside.append([low <= v <= high for (low,high),v in zip(lims, want)])
    assert all(0.93 <= o <= 0.97 for o in np.mean(inside, axis=0)), np.mean(inside, axis=0)
    ev = evaluation(300, 3, seed=10)
    assert ev.roc().table.loc['macro', ['low', 'high']].values == pytest.approx(area_interval(*macro(ev, roc_area)))

@pytest.mark.parametrize('n,c,levels', [(4000, 300, None), (500, 40, 25), (300, 7, 3), (60, 2, None)])
def test_micro_averages_are_those_of_sklearn(n, c, levels):
    "Areas and curves over all decisions in one heap, counted in parts; with many equal scores (`levels`), too"
    p,targs = simulated(n, c)
    p = (p if levels is None else np.round(p*levels)/levels).astype(np.float32)
    hot = np.eye(c, dtype=bool)[targs]
    roc,pr = pooled_areas(p, targs)
    assert roc[0] == pytest.approx(skm.roc_auc_score(hot.ravel(), p.ravel()), abs=1e-9)
    assert pr[0] == pytest.approx(skm.average_precision_score(hot.ravel(), p.ravel()), abs=1e-9)
    for f,(_,moved,_) in zip((roc_area, precision_area), (roc, pr)): # what one picture moves is what its decisions move
        np.testing.assert_allclose(moved, f(hot.ravel(), p.ravel())[1].reshape(n, c).sum(1), atol=1e-12)
    if p.size > 10**6: return # the curves of fewer are as good
    x,y,_ = skm.roc_curve(hot.ravel(), p.ravel(), drop_intermediate=False)
    assert set(zip(*roc[2])) <= set(zip(x, y)) and skm.auc(*roc[2]) == pytest.approx(skm.auc(x, y), abs=1e-9)
    precision,recall,_ = skm.precision_recall_curve(hot.ravel(), p.ravel())
    assert set(zip(*np.round(pr[2], 12))) <= set(zip(np.round(recall, 12), np.round(precision, 12)))

def test_many_classes_need_no_copies():
    "Further pictures need less than half of their predictions as further memory, for curves, areas, temperature and top 5"
    def peak(n):
        p,targs = simulated(n, 300)
        ev = Evaluation(p.astype(np.float32), targs, [f'class {i:03}' for i in range(300)], 'model')
        del p
        tracemalloc.start()
        try:
            ev.roc(); ev.precision_recall(); ev.temperature(); ev.metrics; ev.calibration(); ev.confusion()
            return tracemalloc.get_traced_memory()[1]
        finally: tracemalloc.stop()
    peak(50) # what is imported on first use
    assert peak(11_000)-peak(7000) < 4000*300*4/2

def test_calibration_of_a_worked_example():
    "Four pictures, by hand: bins of 0.2"
    ev = Evaluation([[.9, .1], [.85, .15], [.7, .3], [.3, .7]], [0, 1, 0, 0], 'ab')
    assert ev.ece(5) == pytest.approx((2*abs(.5-.875) + 2*abs(.5-.7))/4, abs=1e-7)

def test_undefined_is_not_zero():
    "A class without pictures, and one that is never predicted"
    ev = Evaluation(np.eye(4)[[0, 0, 1, 1]], [0, 1, 1, 3], 'abcd')
    assert ev.per_class.loc['c', ['precision', 'recall', 'f1']].isna().all()
    assert np.isnan(ev.per_class.precision['d'])
    assert ev.per_class.recall['d'] == 0
    assert ev.metrics['recall_macro'] == pytest.approx((1 + .5 + 0)/3)
    assert ev.roc().table.loc['c'].isna().all() and 'NaN' in repr(ev.roc()) and 'undefined' in ev.roc()._repr_html_()
    ev.plot_confusion(normalize=True); ev.roc().plot(); ev.precision_recall().plot(); ev.plot_counts(); ev.plot_calibration()

def test_one_class_only():
    ev = Evaluation(np.eye(3)[[0, 0, 1]], [0, 0, 0], 'abc')
    assert ev.roc().table.isna().all(axis=None) and ev.precision_recall().table.isna().all(axis=None)
    assert ev.metrics['accuracy'] == pytest.approx(2/3)
    ev.roc().plot(); ev.precision_recall().plot()

@pytest.mark.parametrize('probs,targs,says', [
    (np.eye(3), [0, 1], 'Predictions of 3 pictures, but 2 targets'), (np.eye(3), None, 'no labels'),
    (np.array([[np.nan, 1, 0]]), [0], '1 of 1 predictions are NaN'),
    (np.eye(4), [0, 1, 2, 3], 'shape'), (np.eye(3), [0, 1, 3], 'class numbers, 0 to 2'), (np.zeros((0, 3)), [], 'one picture or more')])
def test_bad_input(probs, targs, says):
    with pytest.raises(ValueError, match=says): Evaluation(probs, targs, 'abc')

def test_other_bad_input():
    ev = evaluation(100, 3)
    with pytest.raises(ValueError, match='top_losses'): ev.picked('top_loses')
    with pytest.raises(ValueError, match='class 001'): ev.picked(of='class 1')
    with pytest.raises(ValueError, match='no pictures'): ev.plot_pictures()
    with pytest.raises(ValueError, match='above 0'): ev.scaled(0)
    with pytest.raises(ValueError, match='same pictures'): ev.compared_with(evaluation(100, 3, seed=1))

def overlaps(texts, fig):
    "Pairs of visible texts of which one covers a part of the other"
    renderer = fig.canvas.get_renderer()
    boxes = [o.get_window_extent(renderer).shrunk(0.98, 0.9) for o in texts if o.get_visible() and o.get_text()]
    return [(a, b) for a,b in itertools.combinations(boxes, 2) if a.overlaps(b)]

@pytest.mark.parametrize('c', (10, 100, 200))
def test_figures(c):
    "What is drawn is what was counted, and no label covers another"
    ev = evaluation(4000, c)
    order = ev.class_order() if c > 20 else range(c)
    m = ev.confusion(True).values[np.ix_(order, order)]
    for ax in (ev.plot_confusion(True), ev.plot_counts(), ev.roc().plot(), ev.precision_recall().plot()):
        ax.figure.canvas.draw()
        for texts in (ax.get_xticklabels(), ax.get_yticklabels(), ax.get_legend().get_texts() if ax.get_legend() else []):
            assert not overlaps(texts, ax.figure)
    ax = ev.plot_confusion(True)
    right,wrong = [o.get_array() for o in ax.images]
    np.testing.assert_allclose(np.where(np.eye(c, dtype=bool), right.filled(np.nan), wrong.filled(np.nan)), m)
    assert [o.get_text() for o in ax.get_xticklabels()] == [ev.vocab[o] for o in order][::len(order)//50 or 1]
    ax = ev.plot_counts()
    shown = [ev.vocab.index(o.get_text()) for o in ax.get_xticklabels()]
    actual,predicted = [np.bincount(o, minlength=c) for o in (ev.targs, ev.preds)]
    assert ([o.get_height() for o in ax.patches] == [*actual[shown], *predicted[shown]]) and len(shown) == min(c, 20)
    if c > 20: assert np.abs(predicted-actual)[shown].min() >= np.abs(np.delete(predicted-actual, shown)).max()
    lines = {o.get_label().rsplit(' ', 1)[0]:o for o in ev.roc().plot().lines}
    worst = ev.roc().table.AUC[ev.vocab].idxmin()
    x,y,_ = skm.roc_curve(ev.targs == ev.vocab.index(worst), ev.probs[:,ev.vocab.index(worst)], drop_intermediate=False)
    drawn = lines[worst].get_xydata()
    assert {tuple(o) for o in drawn} <= set(zip(x, y)) and skm.auc(*drawn.T) == pytest.approx(skm.auc(x, y), abs=1e-12)
    bars = [o.get_height() for o in ev.plot_calibration()[0].patches]
    np.testing.assert_array_equal(bars, ev.calibration().accuracy)

def test_confusion_of_more_classes_than_pixels():
    "Of several classes in a square the largest count is drawn; every class has its dot on the diagonal"
    ev = evaluation(4000, 450)
    order = ev.class_order()
    order.append(None) # what is kept does not change with what was given out
    order = ev.class_order()
    assert sorted(order) == list(range(450))
    m = ev.confusion().values[np.ix_(order, order)]
    ax = ev.plot_confusion()
    np.testing.assert_array_equal(ax.collections[0].get_array(), np.diag(m))
    wrong = np.where(np.eye(450, dtype=bool), 0, m)
    want = [[wrong[i:i+3,j:j+3].max() for j in range(0, 450, 3)] for i in range(0, 450, 3)]
    np.testing.assert_array_equal(ax.images[0].get_array(), want)
    assert ax.images[0].get_extent() == [-0.5, 449.5, 449.5, -0.5] and '3×3' in ax.get_title()

def test_confused_classes_stand_together():
    "Classes in pairs that are taken for each other, in an order drawn by chance"
    rng = np.random.default_rng(0)
    pairs = rng.permutation(40).reshape(20, 2)
    targs = np.repeat(np.arange(40), 20)
    other = np.empty(40, int); other[pairs] = pairs[:,::-1]
    ev = Evaluation(np.eye(40)[np.where(rng.random(800) < 0.3, other[targs], targs)], targs, list(map(str, range(40))))
    at = np.argsort(ev.class_order())
    assert (np.abs(at[pairs[:,0]]-at[pairs[:,1]]) == 1).all()
    t = ev.most_confused(40)
    assert {(int(a), int(b)) for a,b in zip(t.actual, t.predicted)} <= {(a, other[a]) for a in range(40)}
    assert t.pictures.is_monotonic_decreasing

@pytest.mark.parametrize('in_memory', (True, False))
def test_pictures(in_memory):
    "The pictures drawn are those of the table, as they lie in the data set"
    data = digits()
    learn = scratch_learner(data.dataloaders(bs=32, in_memory=in_memory), 'ann', seed=0)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1)
    ev = evaluate(learn)
    t = ev.picked('top_losses', 6)
    assert list(t.index) == list(np.argsort(-ev.losses)[:6]) and t.loss.is_monotonic_decreasing
    assert t.loss.iloc[0] == pytest.approx(-np.log(ev.probs[t.index[0],ev.targs[t.index[0]]]), rel=1e-5)
    for k,want in dict(wrong=False, right=True).items(): assert ((ev.picked(k, 20).actual == ev.picked(k, 20).predicted) == want).all()
    assert set(ev.picked('wrong', of=ev.vocab[8]).actual) <= {ev.vocab[8]}
    assert ev.picked('least_certain').probability.max() < ev.picked('most_certain').probability.min()
    rows = data.positions('test')[t.index]
    for pic,i in zip(split_pictures(ev.dl, t.index), rows): np.testing.assert_array_equal(np.asarray(pic), data.items[i].array)
    ax = ev.plot_pictures('top_losses', 6, cols=3)
    assert len(ax.texts) == 6 and all(o.get_text().endswith(str(a)) for o,a in zip(ax.texts, t.actual))
    tile = np.asarray(data.items[rows[0]].array)/255
    canvas = ax.images[0].get_array()
    assert any(np.allclose(canvas[y:y+64:8, :64:8, 0], tile) for y in range(canvas.shape[0]-64))

def test_curves_of_many_classes_in_time():
    "10,000 pictures of 200 classes: both curves, with intervals, in no more than four times what scikit-learn takes without"
    from sklearn.metrics import average_precision_score, roc_auc_score
    probs,targs = simulated(10_000, 200)
    start = time.perf_counter()
    hot,probs = np.eye(200)[targs],probs.astype(np.float32) # as an `Evaluation` keeps them
    auc,ap = roc_auc_score(hot, probs, average='macro'),average_precision_score(hot, probs, average='macro')
    theirs,start = time.perf_counter()-start,time.perf_counter()
    ev = Evaluation(probs, targs, [f'class {i:03}' for i in range(200)], 'model')
    roc,pr = ev.roc(),ev.precision_recall()
    assert time.perf_counter()-start < 4*theirs
    assert roc.table.AUC.macro == pytest.approx(auc, rel=1e-9) and pr.table['average precision'].macro == pytest.approx(ap, rel=1e-6)
