"""The pool, as a file or in memory: what is read, and what a mistake in it says."""

import dataclasses
import json

import pytest

from cord_jax.engine.teachers import distinct_readers
from cord_jax.errors import UserError
from cord_jax.pool import MetaProverSpec, PoolSpec, ProposerSpec, RewardModelSpec, read_pool
from cord_jax.text.prompt_settings import PromptSettings

TWO = """
meta_prover = "large"
[[proposer]]
name = "large"
checkpoint = "models/large"
[[proposer]]
name = "small, hot"
checkpoint = "../pools/models/small"
temperature = 1
top_k = 20
top_p = 0.95
system_prompt = "Think."
dtype = "bfloat16"
weights = "int8"
"""


@pytest.fixture
def write(tmp_path):
    directory = tmp_path / "pools"
    for name in ("large", "small", "judge"):
        (directory / "models" / name).mkdir(parents=True)

    def write(text):
        path = directory / "pool.toml"
        path.write_text(text)
        return path

    return write


def test_fields(write):
    path = write(TWO)
    models = (path.parent / "models").resolve()
    pool = read_pool(path)
    assert pool.proposers == (
        ProposerSpec("large", models / "large", 0.6, 0, 1.0, None, None, None),
        ProposerSpec("small, hot", models / "small", 1.0, 20, 0.95, "Think.", "bfloat16", "int8"),
    )
    assert pool.meta_prover == MetaProverSpec(models / "large", None, None, None, "large")


def test_the_meta_prover_takes_over_its_proposer_or_has_its_own_table(write):
    path = write(TWO.replace('"large"', '"small, hot"', 1))
    small = (path.parent / "models" / "small").resolve()
    sampling = dict(temperature=1.0, top_k=20, top_p=0.95)
    prompted = MetaProverSpec(small, "Think.", "bfloat16", "int8", "small, hot", **sampling)
    assert read_pool(path).meta_prover == prompted
    path = write(
        TWO.replace('meta_prover = "large"', "")
        + '[meta_prover]\ncheckpoint = "models/judge"\ndtype = "float32"\ntop_k = 3\n'
    )
    judge = (path.parent / "models" / "judge").resolve()
    assert read_pool(path).meta_prover == MetaProverSpec(judge, None, "float32", None, None, top_k=3)


@pytest.mark.parametrize(
    "old, new, reason",
    [
        ('meta_prover = "large"', "", "no meta_prover"),
        ('meta_prover = "large"', 'meta_prover = "judge"', "name one of large, small, hot"),
        ('meta_prover = "large"', "meta_prover = {}", "meta_prover: checkpoint must be a text"),
        (
            'meta_prover = "large"',
            'meta_prover = "large"\nbeams = 4',
            'unknown key "beams"; allowed are meta_prover, proposer, reward_model, integrator',
        ),
        (
            'meta_prover = "large"',
            'meta_prover = {checkpoint = "models/judge", name = "x"}',
            'unknown key "name"',
        ),
        (
            "top_k = 20",
            "topk = 20",
            'proposer 2: unknown key "topk"; allowed are name, checkpoint, temperature',
        ),
        ("top_k = 20", "top_k = -1", "top_k is -1"),
        ("top_k = 20", "top_k = 2.0", "top_k is 2.0"),
        ("top_k = 20", "top_k = true", "top_k is True"),
        ("top_p = 0.95", "top_p = 0", "top_p is 0.0"),
        ("top_p = 0.95", "top_p = 1.5", "top_p is 1.5"),
        ("temperature = 1", "temperature = -1", "temperature is -1.0"),
        ("temperature = 1", "temperature = nan", "temperature is nan"),
        ("temperature = 1", 'temperature = "hot"', "temperature is 'hot'"),
        ("temperature = 1", "temperature = true", "temperature is True"),
        ('"bfloat16"', '"int8"', 'dtype "int8" is not one of float32, bfloat16, float16'),
        ('"bfloat16"', "16", "dtype must be a text"),
        ('weights = "int8"', 'weights = "int4"', 'weights "int4" is not one of int8'),
        ('name = "small, hot"', 'name = "large"', 'the name "large" is taken'),
        ('name = "small, hot"', 'name = " "', "proposer 2: name must be a text"),
        ('name = "small, hot"', "", "proposer 2: name must be a text"),
        ('"../pools/models/small"', '"models/none"', "is not a directory"),
        ('"../pools/models/small"', '"models/large"', "write the same dtype for both"),
        ("[[proposer]]", "[proposer]", "not TOML"),
        ('"Think."', "1", "system_prompt must be a text"),
    ],
)
def test_mistakes(write, old, new, reason):
    assert old in TWO
    path = write(TWO.replace(old, new) if "proposer]" not in old else TWO.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        read_pool(path)
    assert str(error.value).startswith(str(path))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_no_proposers_and_no_file(write, tmp_path):
    with pytest.raises(UserError, match="no proposers"):
        read_pool(write('meta_prover = "a"'))
    with pytest.raises(UserError, match="no proposers"):
        read_pool(write('meta_prover = "a"\nproposer = "b"'))
    with pytest.raises(UserError, match="cannot be read"):
        read_pool(tmp_path / "absent.toml")


@pytest.mark.parametrize("judge", ['meta_prover = "large"', '[meta_prover]\ncheckpoint = "models/judge"'])
def test_a_pool_in_memory_is_that_of_a_file(write, monkeypatch, judge):
    text = TWO.replace('meta_prover = "large"', "") + judge if "[" in judge else TWO
    pool = read_pool(write(text))
    assert read_pool(pool) == pool
    monkeypatch.chdir(pool.meta_prover.checkpoint.parents[1])
    relative = [dataclasses.replace(p, checkpoint=f"models/{p.checkpoint.name}") for p in pool.proposers]
    meta = pool.meta_prover if pool.meta_prover.name is None else MetaProverSpec.of(relative[0])
    assert read_pool(PoolSpec(relative, meta)) == pool


def test_what_is_wrong_with_a_pool_in_memory_is_told(write):
    pool = read_pool(write(TWO))
    first, second = pool.proposers
    for changed, reason in [
        (PoolSpec((first, first), pool.meta_prover), 'the name "large" is taken'),
        (PoolSpec((), pool.meta_prover), "no proposer of these settings"),
        (PoolSpec((), dataclasses.replace(pool.meta_prover, name=None)), "no proposers"),
        (PoolSpec((first, "small"), pool.meta_prover), "a str stands where a ProposerSpec must be"),
        (PoolSpec((first,), None), "a NoneType stands where a MetaProverSpec must be"),
        (
            PoolSpec((dataclasses.replace(first, checkpoint="nowhere"),), pool.meta_prover),
            "no proposer of these",
        ),
        (
            PoolSpec((first, dataclasses.replace(second, temperature=-1.0)), pool.meta_prover),
            "temperature is -1.0",
        ),
        (
            PoolSpec((first, dataclasses.replace(second, top_p=float("nan"))), pool.meta_prover),
            "top_p is nan",
        ),
        (
            PoolSpec((first, dataclasses.replace(second, checkpoint="nowhere")), pool.meta_prover),
            "not a directory",
        ),
    ]:
        with pytest.raises(UserError) as caught:
            read_pool(changed)
        assert reason in str(caught.value) and str(caught.value).startswith("pool")


PROMPTS = """
user_prompt = "Solve: {question}"
template_arguments = {thinking = true, effort = "high"}
"""


def test_prompts_of_a_pool(write):
    pool = read_pool(write(TWO + PROMPTS))
    assert pool.proposers[0].prompt == PromptSettings()
    expected = PromptSettings("Think.", "Solve: {question}", {"thinking": True, "effort": "high"})
    assert pool.proposers[1].prompt == expected
    assert read_pool(pool) == pool
    assert MetaProverSpec.of(pool.proposers[1]).prompt == expected


def test_proposers_share_a_reader_if_they_share_checkpoint_and_prompt(write):
    third = TWO.split("[[proposer]]")[2].replace('"small, hot"', '"cold"').replace("temperature = 1", "")
    used, meta = distinct_readers(read_pool(write(TWO + "[[proposer]]" + third)))
    assert [proposers for proposers in used.values()] == [(0,), (1, 2)] and meta == 0
    used, _ = distinct_readers(read_pool(write(TWO + PROMPTS + "[[proposer]]" + third)))
    assert [proposers for proposers in used.values()] == [(0,), (1,), (2,)]


REWARD = """
[reward_model]
checkpoint = "models/judge"
system_prompt = "Reason."
dtype = "float32"
"""


def test_reward_model_and_integrator(write):
    pool = read_pool(write('integrator = "small, hot"\n' + TWO + REWARD))
    judge = (write(TWO).parent / "models" / "judge").resolve()
    assert pool.reward_model == RewardModelSpec(judge, "Reason.", "float32", None)
    assert pool.integrator == "small, hot"
    assert read_pool(pool) == pool
    assert read_pool(write(TWO)).reward_model is None


@pytest.mark.parametrize(
    "text, reason",
    [
        (
            TWO + PROMPTS.replace("{question}", "it"),
            'proposer 2 ("small, hot"): user_prompt must be a text with {question}',
        ),
        (TWO + PROMPTS.replace('"high"', "[1]"), "effort must be a text, a number, true or false"),
        (TWO + "template_arguments = 1\n", "template_arguments must be a table"),
        ('integrator = "x"\n' + TWO, 'integrator "x" is no proposer; name one of large, small, hot'),
        ("integrator = 1\n" + TWO, "integrator must be a text"),
        ("reward_model = 1\n" + TWO, "reward_model must be a table"),
        (TWO + REWARD + "temperature = 1\n", 'reward_model: unknown key "temperature"'),
        (TWO + REWARD.replace("judge", "none"), "is not a directory"),
        (TWO + REWARD.replace("judge", "small"), "write the same dtype for both"),
    ],
)
def test_mistakes_about_prompts_and_other_models(write, text, reason):
    with pytest.raises(UserError) as error:
        read_pool(write(text))
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_a_reward_model_cannot_write_and_a_writer_gives_no_rewards(write):
    path = write(TWO + REWARD)
    for name in ("small", "judge"):
        config = {"architectures": ["Qwen2ForCausalLM"]}
        (path.parent / "models" / name / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="reward_model: .*judge is no reward model but a Qwen2ForCausalLM"):
        read_pool(path)
    config = {"architectures": ["Qwen2ForProcessRewardModel"]}
    (path.parent / "models" / "judge" / "config.json").write_text(json.dumps(config))
    assert read_pool(path).reward_model is not None
    (path.parent / "models" / "small" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match='proposer "small, hot": .*small is a reward model .* cannot write'):
        read_pool(path)
