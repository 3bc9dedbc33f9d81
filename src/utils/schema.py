"""Types and ranges of the host's keys. Their values are in config/default.yaml (a test: both have the same keys)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from os.path import expanduser
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from components.saved_networks import find_checkpoint
from utils import hosts

Positive = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=1, le=2**16)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
AboveZero = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
_NAME = "a word of letters, digits, _ . and - that begins with a letter or _"
Code = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f]*$")]  # a module's or a file's name
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.\-]*$", description=_NAME)]  # of a registry entry, a folder
MAX_SEED = 2**32 - 1
FORAGING_STEPS = 50  # after which Level-Based Foraging ends by itself
LATER = {"scale_inputs": False}  # keys that came after runs were published -> what these did
LATER_ARGS: dict[str, dict[str, Any]] = {"gymma": {"action_masks": False}}  # the same of an environment's env_args
GONE = {"scale_state": False}  # removed keys that records have -> the value that does what is done today
# What is read by one of the host's own parts alone: (its key, its value) -> keys
READ_BY = {
    ("learner", "q_learner"): ("td_lambda", "double_q"),
    ("learner", "ppo_learner"): ("critic_type", "q_nstep", "epochs", "eps_clip", "entropy_coef"),
    ("action_selector", "epsilon_greedy"): (
        "epsilon_start", "epsilon_finish", "epsilon_anneal_time", "evaluation_epsilon",
    ),
    ("action_selector", "multinomial"): ("test_greedy",),
    ("agent_output_type", "pi_logits"): ("mask_before_softmax",),
    ("mixer", "qmix"): ("mixing_embed_dim", "hypernet_layers", "hypernet_embed"),
}  # fmt: skip


class HostConfig(BaseModel):
    """Every key of the host, checked strictly: no conversion between types, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())

    # what is run
    name: Name
    plugin: Code | None
    label: str
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None
    t_max: Positive

    # environment
    env: Name
    env_module: Code | None
    env_args: dict[str, Any]
    common_reward: bool
    reward_scalarisation: Literal["sum", "mean"]
    scale_inputs: bool

    # acting
    runner: Name
    batch_size_run: Positive
    env_workers: Count
    env_timeout: Annotated[float, Field(ge=0.1, le=86400.0)] | None
    pipeline: bool
    action_selector: Name
    epsilon_start: Share
    epsilon_finish: Share
    epsilon_anneal_time: Positive
    evaluation_epsilon: Share
    mask_before_softmax: bool

    # tests, logs, results
    test_nepisode: Positive
    test_interval: Positive
    test_greedy: bool
    log_interval: Positive
    runner_log_interval: Positive
    learner_log_interval: Positive
    save_model: bool
    save_model_interval: Positive
    local_results_path: Annotated[str, Field(min_length=1), AfterValidator(expanduser)]  # ~ is the home folder
    record_checkpoint: bool
    use_tensorboard: bool
    use_wandb: bool
    wandb_mode: Literal["offline", "online"]
    wandb_project: Name
    wandb_team: Name | None
    checkpoint_interval: Positive | None
    keep_checkpoints: Positive
    keep_finished: bool
    checkpoint_path: Annotated[str, AfterValidator(expanduser)]
    load_step: Count
    evaluate: bool
    render: bool

    # hardware
    use_cuda: Literal["auto"] | bool
    buffer_cpu_only: bool
    torch_threads: Annotated[int, Field(ge=1, le=1024)]

    # learning
    learner: Name
    gamma: Share
    lr: AboveZero
    grad_norm_clip: AboveZero
    batch_size: Positive
    buffer_size: Positive
    env_steps_per_update: Positive | Literal["episode", "batch"]
    sequence_length: Positive | None
    burn_in: Count
    td_lambda: Share
    double_q: bool
    target_update_interval_or_tau: AboveZero
    standardise_rewards: bool
    standardise_returns: bool

    # policy learning
    critic_type: Name
    obs_individual_obs: bool
    q_nstep: Positive
    epochs: Positive
    eps_clip: AboveZero
    entropy_coef: NotNegative

    # agents
    mac: Name
    agent: Name
    agent_output_type: Literal["q", "pi_logits"]
    use_rnn: bool
    hidden_dim: Width
    obs_agent_id: bool
    obs_last_action: bool

    # mixing
    mixer: Name | None
    mixing_embed_dim: Width
    hypernet_layers: Annotated[int, Field(ge=1, le=2)]
    hypernet_embed: Width


def later_args(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of its environment's env_args came later, with the value of before: some of LATER_ARGS."""
    return LATER_ARGS.get(str(config.get("env")), {})


def as_today(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded configuration with today's keys. A removed key stays where its value changed the run; a time limit
    beyond Foraging's own steps, which upstream's file sets, becomes None."""
    today = LATER | _unlike(GONE, recorded)
    if isinstance(args := today.get("env_args"), dict):
        today["env_args"] = later_args(today) | args
        limit = args.get("time_limit")
        if "Foraging" in str(args.get("key")) and isinstance(limit, int) and limit > FORAGING_STEPS:
            today["env_args"]["time_limit"] = None
    return today


def as_before(config: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `as_today`: without keys that came later or are gone, where they say what was done without."""
    before = _unlike(LATER | GONE, config)
    if isinstance(args := before.get("env_args"), dict):
        before["env_args"] = _unlike(later_args(before), args)
    return before


def _unlike(inert: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in inert or value != inert[key]}


def unread(config: Mapping[str, Any]) -> dict[str, str]:
    """Keys that nothing in a run of this configuration reads -> why. Empty with a plugin, whose code may read any."""
    if config["plugin"] is not None:
        return {}
    return {
        key: f"only {part}={value} reads it, and {part} is {config[part]}"
        for (part, value), keys in READ_BY.items()
        for key in keys
        if config[part] != value
    }


def cross_checks(config: dict[str, Any]) -> dict[str, str]:
    """What no single key shows: key -> what is wrong with it. `config` has passed `HostConfig`."""
    return _playing(config) | _learning(config) | _saving(config)


def _playing(config: dict[str, Any]) -> dict[str, str]:
    wrong: dict[str, str] = {}
    if config["runner"] == "episode" and config["batch_size_run"] != 1:
        wrong["batch_size_run"] = "must be 1 with runner=episode; runner=parallel steps several environments"
    if config["pipeline"] and config["runner"] not in ("episode", "parallel"):
        wrong["pipeline"] = f"must be false with runner={config['runner']}: its process plays with the host's runner"
    if config["env_workers"] > config["batch_size_run"]:
        wrong["env_workers"] = f"must be at most batch_size_run={config['batch_size_run']}: a worker steps environments"
    if config["epsilon_finish"] > config["epsilon_start"]:
        wrong["epsilon_finish"] = f"must be at most epsilon_start={config['epsilon_start']}"
    takes = {"epsilon_greedy": "q", "multinomial": "pi_logits", "soft_policies": "pi_logits"}
    if config["agent_output_type"] != takes.get(config["action_selector"], config["agent_output_type"]):
        wrong["action_selector"] = (
            f"does not go with agent_output_type={config['agent_output_type']}: "
            "epsilon_greedy takes action values (q), multinomial and soft_policies draw from policies (pi_logits)"
        )
    if config["render"] and not config["evaluate"]:
        wrong["render"] = "needs evaluate=True: training is not shown"
    return wrong


def _learning(config: dict[str, Any]) -> dict[str, str]:
    wrong: dict[str, str] = {}
    if config["batch_size"] > config["buffer_size"]:
        wrong["batch_size"] = f"must be at most buffer_size={config['buffer_size']}: else learning never begins"
    if config["burn_in"] and config["sequence_length"] is None:
        wrong["burn_in"] = "needs sequence_length: whole episodes rebuild the hidden state themselves"
    if config["sequence_length"] is not None and config["obs_last_action"] and not config["burn_in"]:
        wrong["burn_in"] = "must be at least 1 with obs_last_action: the action before a stretch is not in it"
    tau = config["target_update_interval_or_tau"]
    if tau > 1 and tau != int(tau):
        wrong["target_update_interval_or_tau"] = "must be a whole number of updates above 1, or a rate up to 1"
    if config["mixer"] is not None and not config["common_reward"]:
        wrong["common_reward"] = f"must be true with mixer={config['mixer']}: a mixer learns from the team's one reward"
    learner = f"learner={config['learner']}"
    if hosts.trains_as(config["learner"], "q_learner") and config["agent_output_type"] != "q":
        wrong["agent_output_type"] = f"must be 'q' with {learner}, which learns action values"
    if hosts.trains_as(config["learner"], "ppo_learner"):
        wrong |= _on_policy(config, learner)
    elif config["env_steps_per_update"] == "batch":
        if config["agent_output_type"] == "q":  # action values are learnt from old episodes, too
            wrong["env_steps_per_update"] = "batch is for learner=ppo_learner; give a number of steps, or episode"
        else:
            wrong |= _new_batches(config, "env_steps_per_update=batch")
    elif config["agent_output_type"] == "pi_logits" and config["buffer_size"] == config["batch_size"]:
        wrong["env_steps_per_update"] = (
            f"must be batch with policies (pi_logits) and buffer_size = batch_size = {config['batch_size']}, as of "
            "EPyMARL's on-policy algorithms: each batch is new then, else episodes are learnt from again and again"
        )
    return wrong


def _saving(config: dict[str, Any]) -> dict[str, str]:
    """What is wrong with keys of networks that are saved or loaded, and of what records a run."""
    wrong: dict[str, str] = {}
    if config["record_checkpoint"] and not config["save_model"]:
        wrong["record_checkpoint"] = "needs save_model=True: without it no networks are saved"
    for key, package in (("use_tensorboard", "tensorboard"), ("use_wandb", "wandb")):
        if config[key] and find_spec(package) is None:
            wrong[key] = f"needs {package}: pip install -e '.[{package}]'"
    for key in ("evaluate", "load_step"):
        if config[key] and not config["checkpoint_path"]:
            wrong[key] = "needs checkpoint_path: the folder of the networks to load"
    if config["checkpoint_path"]:
        try:
            step = int(find_checkpoint(config["checkpoint_path"], config["load_step"]).name)
        except FileNotFoundError as error:
            wrong["checkpoint_path"] = str(error)
        else:
            if step > config["t_max"] and not config["evaluate"]:
                wrong["t_max"] = f"must be above {step}, the step of the checkpoint, for training to go on"
    return wrong


def _on_policy(config: dict[str, Any], learner: str) -> dict[str, str]:
    """What ppo_learner asks, or `learner` (key=value), which trains as it does.

    It learns from episodes that the present policy has played, and from no others.
    """
    wrong: dict[str, str] = {}
    if config["env_steps_per_update"] != "batch":
        wrong["env_steps_per_update"] = f"must be batch with {learner}: old episodes teach it nothing"
    wrong |= _new_batches(config, learner)
    if config["agent_output_type"] != "pi_logits":
        wrong["agent_output_type"] = f"must be 'pi_logits' with {learner}, which learns policies"
    if config["mixer"] is not None:
        wrong["mixer"] = f"must be null with {learner}, which has no action values to mix"
    if config["sequence_length"] is not None:
        wrong["sequence_length"] = f"must be null with {learner}, which trains on whole episodes"
    return wrong


def _new_batches(config: dict[str, Any], cause: str) -> dict[str, str]:
    """What batches ask that are all new episodes of the present policy, as `cause` (key=value) wants them."""
    wrong: dict[str, str] = {}
    if config["buffer_size"] != config["batch_size"]:
        wrong["buffer_size"] = f"must be batch_size={config['batch_size']} with {cause}, which uses no others"
    if config["batch_size"] % config["batch_size_run"]:
        wrong["batch_size"] = (
            f"must be a multiple of batch_size_run={config['batch_size_run']} with {cause}: "
            "a batch is played before each update"
        )
    if config["pipeline"]:
        wrong["pipeline"] = f"must be false with {cause}, which learns from the present policy only"
    return wrong
