# fish completion for upscaled
function __upscaled_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l command $words[1]
    set -e words[1]
    set -l lines ($command completion --words $words $current 2>/dev/null)
    set -l names $lines[1]
    set -e lines[1]
    # fish replaces the whole word, also `--crop=`.
    set -l prefix (string match -r -- '^--[^=]+=' $current)
    for line in $lines
        echo -- "$prefix$line"
    end
    switch "$names"
        case files
            __fish_complete_path $current
        case folders
            __fish_complete_directories $current ''
    end
end
complete -c upscaled -f -a '(__upscaled_complete)'
