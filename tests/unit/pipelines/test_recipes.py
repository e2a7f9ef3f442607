"""Built-in recipes are valid, and say so early when they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import ConfigError
from penstock.pipelines.recipes import built_in_recipes, check_recipe, find_recipe, load_recipe


def test_the_built_in_recipes() -> None:
    assert built_in_recipes() == ["pretrain_moe", "tiny"]


@pytest.mark.parametrize("name", ["pretrain_moe", "tiny"])
def test_a_built_in_recipe_fits_together(name: str) -> None:
    config = load_recipe(name)
    check_recipe(config)
    assert config.train.steps >= 200
    assert config.model.num_nextn_predict_layers == 1
    assert config.model.vocab_size == config.tokenizer.vocab_size
    assert config.pack.seq_len <= config.model.max_position_embeddings
    assert config.data.global_batch_size % config.train.micro_batch_size == 0


def test_a_path_comes_before_a_name(tmp_path: Path) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text("[train]\nsteps = 5\n")
    assert load_recipe(recipe).train.steps == 5
    assert load_recipe(recipe, ["train.steps=6"], {"train.out": "there"}).train.steps == 6
    assert load_recipe(recipe, forced={"train.out": "there"}).train.out == "there"


@pytest.mark.parametrize("name", ["tinny", "tiny.toml", "pretrain"])
def test_a_near_name_is_suggested(name: str) -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        find_recipe(name)


def test_a_far_name_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match="built in are pretrain_moe, tiny"):
        find_recipe("zzz")


@pytest.mark.parametrize("fraction", [0, 1, -0.5])
def test_a_held_out_share_that_leaves_nothing_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="heldout_fraction"):
        check_recipe(load_recipe("tiny", [f"corpus.heldout_fraction={fraction}"]))
