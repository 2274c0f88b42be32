import re

from marn import pages


def test_a_title_is_text():
    assert "<title>&lt;b&gt; &amp;</title>" in pages.head("<b> &")
    assert "<h1>&lt;b&gt; &amp;</h1>" in pages.head("<b> &")


def test_a_name_stays_in_its_attribute():
    assert 'aria-label="&quot; onclick=&quot;a"' in pages.wide("<table></table>", '" onclick="a')


def test_what_is_opened_is_closed():
    page = pages.head("a") + pages.wide("<table></table>", "b") + pages.TAIL
    for tag in ("html", "head", "body", "main", "div", "style", "title"):
        assert len(re.findall(f"<{tag}[ >]", page)) == page.count(f"</{tag}>") == 1
