"""Completion of the words of `selftrain` by a shell: commands, knobs and the values they may have.

The scripts hold all words, so that a shell need not start Python. A knob is completed part by
part, as a path is: `--st`, `--student.`, `--student.optim.`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from selftrain.benchmarks import BENCHMARKS
from selftrain.commands import COMMANDS
from selftrain.config import Config
from selftrain.errors import InputError
from selftrain.help import choices, knob_docs, leaf_types

_FILES = "@"
"""Stands for the values of a knob that is a path."""


def complete(words: Sequence[str]) -> str:
    """Return the script for a shell.

    Args:
        words: The shell's name.

    Raises:
        InputError: it is not one word, or not the name of a shell that is known.
    """
    shells = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    if len(words) != 1 or words[0] not in shells:
        raise InputError(f"completion is for one of {', '.join(shells)}: write completion bash.")
    return shells[words[0]]()


def _values() -> Mapping[str, str]:
    """Return {knob: values with blanks between, _FILES, or nothing}; short names of own too."""
    found = {"benchmark": " ".join(BENCHMARKS), "pool": _FILES, "quiet": "", "json": "", "help": ""}
    for path, wanted in leaf_types(Config).items():
        values = _FILES if wanted is Path else " ".join(choices(wanted))
        found.setdefault(path, values)
    return found


def _bash() -> str:
    knobs = _values()
    values = "\n".join(f"    [{knob}]={it!r}" for knob, it in knobs.items() if it)
    return f"""\
# Completion of selftrain for bash, written by `selftrain completion bash`.
declare -gA _selftrain_values=(
{values}
)
_selftrain_knobs="{" ".join(knobs)}"
_selftrain() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}}
    local command=${{COMP_WORDS[1]}} knob="" name rest
    local -A seen=()
    COMPREPLY=()
    # bash cuts --knob=value into three words.
    if [[ $word == "=" ]]; then
        knob=$before word=""
    elif [[ $before == "=" ]]; then
        knob=${{COMP_WORDS[COMP_CWORD - 2]}}
    elif [[ $before == --* && $word != --* ]]; then
        knob=$before
    fi
    if [[ -n $knob && $knob != --quiet && $knob != --json ]]; then
        knob=${{knob#--}}
        local values=${{_selftrain_values[$knob]-${{_selftrain_values[$command.$knob]-}}}}
        if [[ $values == "{_FILES}" ]]; then
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
        else
            mapfile -t COMPREPLY < <(compgen -W "$values" -- "$word")
        fi
        return
    fi
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "{" ".join(COMMANDS)} --help" -- "$word")
        return
    fi
    if [[ $command == completion ]]; then
        mapfile -t COMPREPLY < <(compgen -W "bash zsh fish" -- "$word")
        return
    fi
    for name in $_selftrain_knobs; do
        # A command's own knobs may be named without its name.
        for name in "--$name" "--${{name#"$command".}}"; do
            if [[ $name == "$word"* ]]; then
                rest=${{name#"$word"}}
                [[ $rest == *.* ]] && name=$word${{rest%%.*}}.
                [[ -n ${{seen[$name]-}} ]] || COMPREPLY+=("$name")
                seen[$name]=1
            fi
        done
    done
    [[ ${{#COMPREPLY[@]}} == 1 && ${{COMPREPLY[0]}} == *. ]] && compopt -o nospace
}}
complete -F _selftrain selftrain
"""


def _zsh() -> str:
    knobs = _values()
    values = "\n".join(f"    {knob} {it!r}" for knob, it in knobs.items() if it)
    commands = "\n".join(
        f"    '{name}:{_plain(command.line)}'" for name, command in COMMANDS.items()
    )
    return f"""\
#compdef selftrain
# Completion of selftrain for zsh, written by `selftrain completion zsh`.
typeset -gA _selftrain_values=(
{values}
)
_selftrain() {{
    local -a commands=(
{commands}
    )
    local -a knobs=({" ".join(f"--{knob}" for knob in knobs)})
    local command=$words[2] knob=""
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    if [[ $command == completion ]]; then
        compadd bash zsh fish
        return
    fi
    if [[ $PREFIX == --*=* ]]; then
        knob=${{PREFIX%%=*}}
        compset -P '*='
    elif [[ $words[CURRENT-1] == --* && $PREFIX != --* ]]; then
        knob=$words[CURRENT-1]
    fi
    if [[ -n $knob && $knob != --quiet && $knob != --json ]]; then
        knob=${{knob#--}}
        local values=${{_selftrain_values[$knob]:-$_selftrain_values[$command.$knob]}}
        if [[ $values == {_FILES} ]]; then
            _files
        else
            compadd -- ${{=values}}
        fi
        return
    fi
    # A command's own knobs may be named without its name.
    knobs+=(${{${{(M)knobs:#--$command.*}}/--$command./--}})
    _multi_parts . knobs
}}
if [[ $funcstack[1] == _selftrain ]]; then
    _selftrain "$@"
else
    compdef _selftrain selftrain
fi
"""


def _fish() -> str:
    docs = knob_docs()
    lines = [
        "# Completion of selftrain for fish, written by `selftrain completion fish`.",
        "complete -c selftrain -f",
    ]
    for name, command in COMMANDS.items():
        line = _plain(command.line)
        lines.append(f"complete -c selftrain -n __fish_use_subcommand -a {name} -d '{line}'")
    lines.append(
        "complete -c selftrain -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'"
    )
    for knob, values in _values().items():
        given = f" -x -a '{values}'" if values else " -x"
        if values == _FILES:
            given = " -r -F"
        elif knob in ("quiet", "json", "help"):
            given = ""
        text = f" -d '{_plain(docs[knob])}'" if docs.get(knob) else ""
        lines.append(f"complete -c selftrain -n 'not __fish_use_subcommand' -l {knob}{given}{text}")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Return a text that can stand between apostrophes, in the first sentence's length."""
    first = text.partition(". ")[0]
    return first.replace("\\", "").replace("'", "").replace(":", ",")
