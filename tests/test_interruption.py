"""What a signal asks for: an end in good order, or at once."""

import signal

import pytest

from talr_cli.interruption import stop_requests


@pytest.fixture
def heard():
    """Signals are heard even if these tests ignore them, as in the background of a shell."""
    usual = {
        one: signal.signal(one, signal.SIG_DFL)
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    yield
    for one, handler in usual.items():
        signal.signal(one, handler)


def finishes_its_step(*signals):
    """Whether a step is finished in which these signals come."""
    done = False
    try:
        with stop_requests("the step is finished") as stop:
            for one in signals:
                signal.raise_signal(one)
            assert stop.requested
            done = True
    except KeyboardInterrupt:
        return done
    raise AssertionError("it goes on after its end")


def test_two_hangups_of_a_closed_terminal_ask_for_one_stop(heard):
    assert finishes_its_step(signal.SIGHUP)
    assert finishes_its_step(signal.SIGHUP, signal.SIGHUP)  # from the kernel, and from the shell
    assert finishes_its_step(signal.SIGTERM, signal.SIGHUP)  # as systemd ends a session


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_any_other_second_signal_ends_at_once(heard, second):
    assert not finishes_its_step(signal.SIGHUP, second)


def test_an_ignored_hangup_stays_ignored(heard):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    with stop_requests("the step is finished") as stop:
        signal.raise_signal(signal.SIGHUP)
    assert not stop.requested
