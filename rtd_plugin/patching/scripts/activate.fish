# `source activate.fish` in fish: activates the patch in every Python that is started from this shell, until
# `rtd_deactivate`. Written by `rtd-plugin patch`. It finds its path at run time, so that a folder's name never becomes code.
function rtd_deactivate
    if set -q RTD_PLUGIN_SITE
        if set -l index (contains -i -- $RTD_PLUGIN_SITE $PYTHONPATH)
            set -e PYTHONPATH[$index]
        end
        if test -z "$PYTHONPATH"; and not set -q RTD_PLUGIN_HAD_PYTHONPATH
            set -e PYTHONPATH
        end
        set -e RTD_PLUGIN_SITE RTD_PLUGIN_HAD_PYTHONPATH
    end
    if test "$argv[1]" != keep
        functions -e rtd_deactivate
    end
end
function rtd_activate --argument-names script
    if not string match -q -- '/*' $script
        set script $PWD/(string replace -r '^\./' '' -- $script | string collect)
    end
    set -l site (string replace -r '/[^/]*\z' /site -- $script | string collect)
    if not test -f $site/sitecustomize.py
        printf 'rtd-plugin: %s: no such folder: source the script in the patch folder that it belongs to\n' \
            (string escape -- $site) >&2
        return 1
    end
    if string match -q -- '*:*' $site
        printf 'rtd-plugin: %s: PYTHONPATH cannot hold a path with ":": move the patch folder\n' \
            (string escape -- $site) >&2
        return 1
    end
    rtd_deactivate keep
    set -g RTD_PLUGIN_SITE $site
    set -q PYTHONPATH; and set -g RTD_PLUGIN_HAD_PYTHONPATH yes
    if test -n "$PYTHONPATH"
        set -gx --path PYTHONPATH $site $PYTHONPATH
    else
        set -gx --path PYTHONPATH $site
    end
end
rtd_activate (status filename | string collect)
