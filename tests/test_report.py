"The report in a real browser, and the slides."
import shutil
from pathlib import Path
import pytest
import numpy as np
from cnnfast.data.dataset import digits
from cnnfast.evaluation import curves # Evaluation.roc, …
from cnnfast.evaluation.metrics import Evaluation
from cnnfast.study import report
from cnnfast.study.pipeline import compare

BROWSER = next((o for o in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if o), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason='needs chromium (or chrome) on the PATH')

@pytest.fixture(scope='module')
def comparison(): return compare(digits(), ['ann', 'cnn', 'tiny_resnet'], seeds=1, epochs=2, verbose=False)

@pytest.fixture(scope='module')
def path(comparison, tmp_path_factory): return comparison.report(tmp_path_factory.mktemp('report')/'report.html')

@pytest.fixture(scope='module')
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=BROWSER, args=['--no-sandbox'])
        yield b
        b.close()

@pytest.fixture
def page(browser, path):
    "The report, opened; what it asked for and what it complained of"
    p = browser.new_page(viewport=dict(width=1280, height=900))
    p.asked,p.complaints = [],[]
    p.on('request', lambda o: p.asked.append(o.url))
    p.on('console', lambda o: p.complaints.append(o.text))
    p.on('pageerror', lambda o: p.complaints.append(str(o)))
    p.goto(path.as_uri())
    yield p
    p.close()

def test_size(path): assert path.stat().st_size < 8*2**20

def test_long_tables_are_folded():
    "Of a hundred classes the weakest twenty are shown, and all where one unfolds them; ten are shown at once"
    def tables(c):
        rng = np.random.default_rng(0)
        targs = np.repeat(np.arange(c), 5)
        said = np.where(rng.random(len(targs)) < np.linspace(1, 0.2, c)[targs], targs, (targs+1) % c)
        ev = Evaluation(np.eye(c)[said], targs, [f'class {i:03}' for i in range(c)])
        return str(report._class_table(ev, ev.roc(), ev.precision_recall())).split('<details>'),ev.per_class.f1
    (shown,folded),f1 = tables(100)
    worst = set(f1.nsmallest(20, keep='all').index)
    names = [o for o in f1.index if o in shown]
    assert len(names) == 20 and set(names) <= worst and all(o in folded for o in f1.index) and 'All 100 rows' in folded
    (shown,),f1 = tables(10)
    assert all(o in shown for o in f1.index)

@needs_browser
def test_opens_without_errors_and_network(page, path):
    assert not page.complaints
    assert [o for o in page.asked if not o.startswith('data:')] == [path.as_uri()]

@needs_browser
def test_every_figure_is_visible_and_described(page):
    page.evaluate("document.querySelectorAll('details').forEach(o => o.open = true)")
    figures = page.evaluate("[...document.images].map(o => [o.complete && o.naturalWidth > 0, o.checkVisibility(), o.clientWidth > 100, "
                            "o.alt.length > 20])")
    assert len(figures) > 30 and all(all(o) for o in figures)
    assert len(set(page.evaluate("[...document.images].map(o => o.alt)"))) == len(figures)

@needs_browser
def test_table_is_sorted_by_a_click(page):
    column = "[...document.querySelector('#comparison ~ .scroll table').tBodies[0].rows].map(o => o.cells[{}].textContent)"
    names = page.evaluate(column.format(0))
    head = page.locator('#comparison ~ .scroll table').first.locator('th button')
    head.filter(has_text='parameters').click()
    down = [int(o.replace(',', '')) for o in page.evaluate(column.format(6))]
    assert down == sorted(down, reverse=True)
    head.filter(has_text='parameters').press('Enter')
    assert [int(o.replace(',', '')) for o in page.evaluate(column.format(6))] == down[::-1]
    assert sorted(page.evaluate(column.format(0))) == sorted(names)

@needs_browser
def test_folding_by_keyboard(page):
    second = page.locator('details.model').nth(1)
    assert page.locator('details.model').first.get_attribute('open') is not None and second.get_attribute('open') is None
    second.locator('> summary').focus(); page.keyboard.press('Space')
    assert second.get_attribute('open') is not None and second.locator('img').first.is_visible()
    page.keyboard.press('Enter')
    assert second.get_attribute('open') is None
    page.locator('nav a').last.click() # a link to a folded section opens it
    assert page.locator('details.model').last.get_attribute('open') is not None

@needs_browser
def test_on_a_phone_and_on_paper(page):
    page.set_viewport_size(dict(width=360, height=740))
    page.evaluate("document.querySelectorAll('details').forEach(o => o.open = true)")
    assert page.evaluate('document.documentElement.scrollWidth') <= 360
    page.evaluate("document.querySelectorAll('details').forEach(o => o.open = false)")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.images].every(o => o.checkVisibility())")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.evaluate("[...document.querySelectorAll('details')].some(o => o.open)")

def test_says_what_was_measured(path, comparison):
    text = path.read_text()
    for m in comparison.table.index: assert f'{comparison.of(m)[0].evaluation.metrics["accuracy"]:.4f}' in text
    for o in ('points behind', 'expected calibration error', 'AUC (macro)', 'What it gets wrong and right', 'How it was trained',
              'optimiser', 'The architecture of',
              'Distribution of the classes',
              'Filters of the first convolution'):
        assert o in text

def test_slides(comparison, tmp_path):
    pptx = pytest.importorskip('pptx', reason="needs pip install '.[slides]'")
    deck = pptx.Presentation(comparison.slides(tmp_path/'report.pptx'))
    text = [[o.text_frame.text for o in slide.shapes if o.has_text_frame] for slide in deck.slides]
    titles,best = [o[0] for o in text],comparison.table.index[0]
    for o in ('The problem', 'Preprocessing', 'How they were trained', 'How they learned', 'What it costs', 'All 3 trainings as one',
              'Trade-offs', 'Conclusion'):
        assert sum(t.startswith(o) for t in titles) == 1, o
    assert sum('parameters' in t for t in titles) == 3 # an architecture of each
    assert [o for o in text[-1] if 'classifies' in o]
    result = next(t for t in titles if 'classifies' in t)
    assert best in result and f'{comparison.table.accuracy.iloc[0]:.1%}' in result
    assert sum(o.has_notes_slide for o in deck.slides) >= len(titles)-2

def test_slides_without_the_package(comparison, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'pptx', None)
    with pytest.raises(ImportError, match=r'pip install .*\[slides\]'): comparison.slides(tmp_path/'report.pptx')
    assert not list(tmp_path.iterdir())
