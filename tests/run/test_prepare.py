"""What is refused before a run is begun: an adapter that does not fit its model."""

import pytest
from conftest import config

from talr_cli.errors import UserError
from talr_cli.run.prepare import _check_adapter


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ("[nosuch]", r"cannot be put on tiny: .*'nosuch'"),
        ("5", "cannot be put on tiny: "),
        ("'[*'", "cannot be put on tiny: "),  # no regular expression
        ("[lm_head]", "names the model's head"),
        ("[q_proj]", None),
    ],
)
def test_an_adapter_that_does_not_fit_is_one_line(modules, said, tiny_source):
    asked = config("train", "model=tiny", "adapter=lora", f"adapter.target_modules={modules}")
    if said is None:
        _check_adapter(asked, tiny_source)
        return
    with pytest.raises(UserError, match=said) as error:
        _check_adapter(asked, tiny_source)
    assert "\n" not in str(error.value)
