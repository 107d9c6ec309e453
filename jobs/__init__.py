"""The commands, one file each: arguments, build, call, print. The library never imports from here."""

from __future__ import annotations

if __name__ == "jobs":  # `python -m jobs` in a checkout, nothing installed: its own folders are the package
    import importlib.util
    import sys
    from pathlib import Path

    _root = Path(__file__).resolve().parent.parent
    _spec = importlib.util.spec_from_file_location(
        "captionmill",
        _root / "pipeline" / "__init__.py",
        submodule_search_locations=[str(_root / "pipeline"), str(_root)],
    )
    assert _spec is not None and _spec.loader is not None  # noqa: S101  the file lies beside this one
    sys.modules["captionmill"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["captionmill"])
