"""What a line of a mistake says is to be typed."""

from talr_cli import errors


def test_an_extra_is_named_where_talrs_files_are_and_its_packages_elsewhere(monkeypatch):
    assert errors.install_command("math") == "pip install -e '.[math]'"
    monkeypatch.setattr(errors, "__file__", "/site-packages/talr_cli/errors.py")
    monkeypatch.setattr(
        errors.metadata,
        "requires",
        lambda name: ["torch>=2", 'math-verify<0.10,>=0.9; extra == "math"', 'ray; extra == "ray"'],
    )
    assert errors.install_command("math") == "pip install 'math-verify<0.10,>=0.9'"


def test_an_exception_is_one_line_and_never_nothing():
    assert errors.reason_of(KeyError()) == "KeyError"
    assert errors.kind_and_reason(AssertionError()) == "AssertionError"
    assert errors.kind_and_reason(ValueError(" one\n  two ")) == "ValueError: one two"
    assert errors.kind_and_reason(ValueError("a" * 400)) == f"ValueError: {'a' * 288} ..."
