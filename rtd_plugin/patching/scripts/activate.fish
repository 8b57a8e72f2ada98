# `source activate.fish` in fish: puts the patch into force in every Python that is started from this shell, until
# `rtd_deactivate`. Written by `rtd-plugin patch`.
function rtd_deactivate
    if set -q RTD_PLUGIN_SITE
        set -l others
        for folder in (string split -- : "$PYTHONPATH")
            if test "$folder" != "$RTD_PLUGIN_SITE"
                set -a others $folder
            end
        end
        if test (count $others) -gt 0
            set -gx PYTHONPATH (string join -- : $others)
        else
            set -e PYTHONPATH
        end
        set -e RTD_PLUGIN_SITE
    end
    if test "$argv[1]" != keep
        functions -e rtd_deactivate
    end
end
rtd_deactivate keep
set -g RTD_PLUGIN_SITE @SITE@
if set -q PYTHONPATH; and test -n "$PYTHONPATH"
    set -gx PYTHONPATH "$RTD_PLUGIN_SITE:"(string join -- : $PYTHONPATH)
else
    set -gx PYTHONPATH $RTD_PLUGIN_SITE
end
