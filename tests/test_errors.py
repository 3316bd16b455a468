"""What a line of a mistake says is to be typed."""

from talr_cli import errors


def test_install_command_names_the_extra_in_a_checkout_and_its_packages_elsewhere(monkeypatch):
    assert errors.install_command("math") == "pip install -e '.[math]'"
    monkeypatch.setattr(errors, "__file__", "/site-packages/talr_cli/errors.py")
    monkeypatch.setattr(
        errors.metadata,
        "requires",
        lambda name: ["torch>=2", 'math-verify<0.10,>=0.9; extra == "math"', 'ray; extra == "ray"'],
    )
    assert errors.install_command("math") == "pip install 'math-verify<0.10,>=0.9'"


def test_an_exception_becomes_one_line_that_is_not_empty():
    assert errors.reason_of(KeyError()) == "KeyError"
    assert errors.kind_and_reason(AssertionError()) == "AssertionError"
    assert errors.kind_and_reason(ValueError(" one\n  two ")) == "ValueError: one two"
    assert errors.kind_and_reason(ValueError("a" * 400)) == f"ValueError: {'a' * 288} ..."
