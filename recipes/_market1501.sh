# shellcheck shell=bash
# What the recipes for Market-1501 share; sourced by them.
trap 'exit 130' INT TERM # an interrupted training saves and ends well; it should not be evaluated then
code=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=$code${PYTHONPATH:+:$PYTHONPATH}

begin() { # names of the recipe's arguments, first MARKET and last OUT; the arguments. Makes OUT/csvs
    local names
    read -ra names <<<"$1"
    shift
    if [ $# -ne ${#names[@]} ]; then
        echo "usage: $0 ${names[*]}" >&2
        exit 2
    fi
    market=$1 out=${!#}
    python -m data.market1501 --image_root "$market" --directory "$out/csvs"
}

train() { # flags of the recipe. Goes on with a training that was begun
    if [ -e "$out/experiment/args.json" ]; then
        python "$code/train.py" --experiment_root "$out/experiment" --resume
    else
        python "$code/train.py" --experiment_root "$out/experiment" \
            --train_set "$out/csvs/train.csv" --image_root "$market" "$@"
    fi
    # The trap does not see a signal that went to the training alone, as a scheduler's does.
    python "$code/runs.py" "$out/experiment" --finished >&2 || exit 130
}

evaluate_ten_crop() { # as the paper does
    "$code/recipes/evaluate_ten_crop.sh" "$out/experiment" "$out/csvs/query.csv" "$out/csvs/gallery.csv" market1501 \
        "$out/ten_crop.json" --use_market_ap
}
