"""`talr completion bash|zsh|fish`: the script with which a shell completes talr's arguments.

The scripts call `talr completion words LINE` with the line up to the cursor.
"""

from collections.abc import Sequence

from talr_cli.errors import UserError

# Bash splits words at = and :, and replaces only what follows them.
_BASH = r"""_talr() {
    local line="${COMP_LINE:0:COMP_POINT}" word cut one IFS=$'\n'
    word="${line##*[[:space:]]}"
    cut="${word%"${word##*[=:]}"}"
    COMPREPLY=()
    for one in $("${COMP_WORDS[0]}" completion words "$line" 2>/dev/null); do
        case "$one" in *[=./,]) ;; *) one="$one " ;; esac
        [[ $COMP_WORDBREAKS == *=* ]] && one="${one#"$cut"}"
        COMPREPLY+=("$one")
    done
}
complete -o nospace -F _talr talr
"""
_ZSH = r"""#compdef talr
_talr() {
    local -a found whole open
    found=("${(@f)$("${words[1]}" completion words "$BUFFER[1,CURSOR]" 2>/dev/null)}")
    open=(${(M)found:#*[=./,]})
    whole=(${found:#*[=./,]})
    compadd -Q -S '' -a open
    compadd -Q -a whole
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _talr talr
"""
_FISH = r"""function __talr_words
    set -l typed (commandline --current-process --cut-at-cursor)
    set -l program (string split -m 1 ' ' -- "$typed")[1]
    $program completion words "$typed" 2>/dev/null
end
complete -c talr -f -a '(__talr_words)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
HELP = """talr completion bash|zsh|fish

  eval "$(talr completion bash)"        bash, for this shell; or in ~/.bashrc
  eval "$(talr completion zsh)"         zsh, or in ~/.zshrc
  talr completion fish | source         fish, or into ~/.config/fish/completions/talr.fish
"""


def main(arguments: Sequence[str]) -> None:
    """Print a script, or the completions of a line, one on each line.

    Raises:
        UserError: There is no such shell.
    """
    match list(arguments):
        case ["words", line]:
            from talr_cli.config.completion import words

            for word in words(line):
                print(word)
        case [shell] if shell in SCRIPTS:
            print(SCRIPTS[shell], end="")
        case ["-h" | "--help"]:
            print(HELP, end="")
        case other:
            arguments_text = " ".join(other) or "no shell"
            raise UserError(f"{arguments_text}: type talr completion bash, zsh or fish")
