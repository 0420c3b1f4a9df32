"""`lab lineage ...` and the commands of the search: parsing and printing only."""

import json as jsons
from pathlib import Path

from monolab import paths


def tree(*, stage: str | None = None, tree: str = "", best: int = 0, html: Path | None = None, png: Path | None = None, json: bool = False) -> None:
    """Show everything that was tried as a tree: as text, as JSON, as a page (--html FILE) or a picture (--png FILE); --tree NAME for an imported one."""
    from dataclasses import asdict

    from monolab import lineage, lineage_page

    lab = paths.find()
    found = lineage.load(lab, tree)
    if stage:
        found = found.at(stage)
    if html:
        print(lineage_page.page(lab, found, html))
    if png:
        print(lineage_page.picture(found, png))
    if json:
        print(jsons.dumps(asdict(found), indent=1))
    elif not html and not png:
        print(lineage_page.text(found, best))


def show(name: str, /, *, tree: str = "", json: bool = False) -> None:
    """One candidate (key, slug or run) with what stands above, beside and below it."""
    from monolab import lineage, lineage_page

    found = lineage.load(paths.find(), tree)
    print(jsons.dumps(lineage_page.about(found, name), indent=1) if json else lineage_page.about_text(found, name))


def diff(first: str, second: str, /, *, tree: str = "", json: bool = False) -> None:
    """Code and numbers of any two candidates, side by side."""
    from monolab import lineage, lineage_page

    lab = paths.find()
    found = lineage.load(lab, tree)
    told = lineage_page.compare(found, first, second)
    code = lineage_page.change(lab, found.get(first), found.get(second))
    if json:
        print(jsons.dumps(told | {"diff": code}, indent=1))
    else:
        print(lineage_page.compare_text(told) + "\n\n" + (code or "(the same code)"))


LINEAGE = {"tree": tree, "show": show, "diff": diff}


def import_tree(kind: str, file: Path, name: str) -> None:
    from monolab import asi_arch, lineage
    from monolab.errors import LabError

    if kind != asi_arch.NAME:
        raise LabError(f"there is no importer for {kind!r}", hint=f"lab import {asi_arch.NAME} FILE")
    lab = paths.find()
    found = asi_arch.read(file, name or kind)
    print(f"{len(found.candidates)} candidates, {sum(one.value is not None for one in found.candidates)} with a score: {lineage.save(lab, found)}")
    print(f"lab lineage tree --tree {found.name} --best 10")


def search(count: int, policy: str | None, seed: int, stage: str) -> None:
    from monolab import searcher
    from monolab.errors import LabError

    if count < 1:
        raise LabError(f"--n {count}: at least one", hint="just search --n 10")
    lab, made = paths.find(), []
    for slug in searcher.search(lab, count, policy=policy, seed=seed, stage=stage):
        print(f"[{len(made) + 1:>3}] {slug}", flush=True)
        made.append(slug)
    print(searcher.summary(lab, stage, made))


def analysis(tree: str, stage: str, out: Path | None, json: bool) -> None:
    from monolab import lineage, overview

    lab = paths.find()
    found = lineage.load(lab, tree)
    floor, plateau = (None, 20) if tree else (overview.floor_of(lab, stage), overview.plateau_of(lab))
    told = overview.report(found if tree else found.at(stage), overview.components_of(lab, found), floor=floor, plateau=plateau)
    if out:
        print(overview.draw(told, out))
    if json:
        print(jsons.dumps(told, indent=1))
    elif not out:
        print(overview.text(told))


def following(policy: str | None, seed: int | None, stage: str, tree: str, json: bool) -> None:
    from dataclasses import asdict

    from monolab import advice, hooks

    lab = paths.find()
    found = advice.advise(lab, policy=policy, seed=seed, stage=stage, tree=tree)
    hooks.remember_next(lab, found.parent.key, found.policy, found.why)
    print(jsons.dumps(asdict(found), indent=1) if json else advice.text(found))
