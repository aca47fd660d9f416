"""Extracts the training text of tiny-lm from Debian documentation packages.

Usage: python3 corpus.py DEB_DIR OUT_DIR

DEB_DIR holds the packages of PACKAGES as `.deb` files (`apt-get download NAME=VERSION`).
Each is checked against its SHA-256, its HTML pages are read in path order, and their prose is
written as plain text: headings, paragraphs, list items and the signatures of documented names.
Code blocks, tables, navigation, indices and change logs are left out, and a paragraph that
occurred before is dropped. One page in fifty, chosen by the hash of its path, goes to `val.txt`;
the others go to `train.txt`. Pages are separated by a form feed. Needs `dpkg-deb`; the output
depends on nothing but the packages.
"""

import hashlib
import io
import pathlib
import re
import subprocess
import sys
import tarfile
from html.parser import HTMLParser

# (package, version, licence of the documentation, SHA-256 of the .deb)
PACKAGES = [
    ("python3.11-doc", "3.11.2-6+deb12u9", "PSF-2.0",
     "5b3594189d6ef9a6963ce0347fd307a1cc67620ad697e144db366070e2e146be"),
    ("python-django-doc", "3:3.2.25-0+deb12u7", "BSD-3-Clause",
     "87307f067916df72e17180d35b7cde5c7ea6080336cda518efd7f6e66988a7ca"),
    ("python-sqlalchemy-doc", "1.4.46+ds1-1", "MIT",
     "8805c3167ef75278ac6fd58ed9856321c2b2e3a7e441edba84b2eb955216d0fd"),
    ("postgresql-doc-15", "15.20-0+deb12u1", "PostgreSQL",
     "4c44bf2c599f208b3f46454a6cf7a72e25ec46ff74d37b59dd31ad76b00eebb7"),
    ("python-flask-doc", "2.2.2-3", "BSD-3-Clause",
     "0659f6a04b15fe3f907150cadc0399fe987c790e722e001b73f7e49fa5ecca15"),
    ("python-werkzeug-doc", "2.2.2-3+deb12u1", "BSD-3-Clause",
     "5aeffdfdf257911e3ade253d2b6cc3f98a06df3bec1332efdbc3fbd578530230"),
    ("python-pytest-doc", "7.2.1-2", "MIT",
     "8cf17eb7826a2bbbc8207447fc888cbb75fd86680146542ebd9545e18229d3aa"),
    ("sphinx-doc", "5.3.0-4", "BSD-2-Clause",
     "1da3d08bb3a0bc82a4b8b8109410e223054bf5fb13904557ec8ea869046f65b4"),
    ("python-tornado-doc", "6.2.0-3+deb12u4", "Apache-2.0",
     "854ca846655975838c1c8c5058b31a46f963e3bcd229b5e2b209b28fffd50c9f"),
]

# Pages that hold lists rather than prose.
SKIPPED_PAGE = re.compile(
    r"(^|/)(genindex|py-modindex|modindex|search|contents|bookindex|changelog|license|copyright|"
    r"release-|changelog_|features-|history|changes)|/(changelog|_modules|_sources)/"
)
SKIPPED_TAGS = {"pre", "table", "script", "style", "nav", "footer", "head", "svg", "math", "button", "form"}
SKIPPED_CLASSES = {
    "sphinxsidebar", "related", "navheader", "navfooter", "footer", "toctree-wrapper", "toc", "sidebar",
    "headerlink", "headerlink-comment", "contents", "local", "viewcode-link", "document-nav", "docs-sidebar",
    "math", "header", "sig-paren-hidden", "breadcrumb", "browse-horizontal", "nav",
}
HEADINGS = {"h1", "h2", "h3", "h4", "h5"}
VOID_TAGS = {"br", "img", "hr", "input", "link", "meta", "col", "wbr", "area", "source"}

ASCII = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": " - ",
    "\u2026": "...", "\u00a0": " ", "\u2192": "->", "\u00b6": "", "\u00a7": "", "\u2009": " ",
    "\u200b": "", "\u00ad": "", "\u2212": "-", "\u00d7": "x", "\u2022": "-", "\uf0c1": "",
})


class Prose(HTMLParser):
    """Collects the blocks of text of one page, in order."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.blocks = []
        self.text = []
        self.kind = None
        self.item = False
        self.skip_tag = None
        self.skip_depth = 0

    def flush(self):
        text = " ".join("".join(self.text).translate(ASCII).split())
        self.text = []
        if text:
            self.blocks.append((self.kind, self.item, text))
            self.item = False

    def handle_starttag(self, tag, attrs):
        if self.skip_tag:
            self.skip_depth += tag == self.skip_tag
            return
        classes = set((dict(attrs).get("class") or "").split())
        if tag not in VOID_TAGS and (tag in SKIPPED_TAGS or classes & SKIPPED_CLASSES):
            self.skip_tag, self.skip_depth = tag, 1
            return
        if tag in HEADINGS or tag in {"p", "li", "dt", "dd", "div", "ul", "ol", "dl"}:
            self.flush()
            self.kind = {"dt": "term", "div": None, "ul": None, "ol": None, "dl": None}.get(tag, "text")
            if tag in HEADINGS:
                self.kind = "heading"
            if tag == "li":
                self.item = True
        elif tag == "br":
            self.text.append(" ")

    def handle_endtag(self, tag):
        if self.skip_tag:
            if tag == self.skip_tag:
                self.skip_depth -= 1
                if self.skip_depth == 0:
                    self.skip_tag = None
            return
        if tag in HEADINGS or tag in {"p", "li", "dt", "dd", "div", "ul", "ol", "dl"}:
            self.flush()
            self.kind = None
            if tag in {"li", "ul", "ol"}:
                self.item = False

    def handle_data(self, data):
        if not self.skip_tag and self.kind:
            self.text.append(data)


def is_prose(kind, text):
    """Whether a block reads as text: mostly ASCII, and sentences made of words."""
    if len(text) > 6000 or sum(ord(c) > 126 for c in text) * 50 > len(text):
        return False
    if kind == "text":
        letters = sum(c.isalpha() or c == " " for c in text)
        return letters * 10 >= len(text) * 8
    return len(text) <= 160


def page_text(html, seen):
    """The text of one page; `seen` holds the paragraphs of the pages before it."""
    parser = Prose()
    parser.feed(html)
    parser.flush()
    lines, prose = [], 0
    for kind, item, text in parser.blocks:
        if not is_prose(kind, text):
            continue
        if kind == "text":
            if len(text) >= 40:
                if text in seen:
                    continue
                seen.add(text)
            prose += len(text)
        lines.append(("- " if item else "") + text)
        lines.append("\n" if item or kind == "term" else "\n\n")
    # a page of mere signatures and links says nothing
    return "".join(lines).strip() if prose >= 200 else ""


def pages(deb):
    """The (path, html) pairs of a package, in path order."""
    tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        members = sorted((m.name, m) for m in archive if m.isfile() and m.name.endswith(".html"))
        for name, member in members:
            if not SKIPPED_PAGE.search(name):
                yield name, archive.extractfile(member).read().decode("utf-8", "replace")


def main(deb_dir, out_dir):
    seen, parts = set(), {"train": [], "val": []}
    for package, version, _, digest in PACKAGES:
        escaped = version.replace(":", "%3a")
        (deb,) = pathlib.Path(deb_dir).glob(f"{package}_{escaped}_*.deb")
        found = hashlib.sha256(deb.read_bytes()).hexdigest()
        if found != digest:
            sys.exit(f"{deb.name}: expected sha256 {digest}, found {found}")
        size = 0
        for path, html in pages(deb):
            text = page_text(html, seen)
            if text:
                held_out = hashlib.sha256(path.encode()).digest()[0] % 50 == 0
                parts["val" if held_out else "train"].append(text)
                size += len(text)
        print(f"{package} {version}: {size} characters")
    out = pathlib.Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    for name, texts in parts.items():
        data = "\f".join(texts).encode()
        (out / f"{name}.txt").write_bytes(data)
        print(f"{name}.txt: {len(texts)} pages, {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
