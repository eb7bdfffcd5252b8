# shellcheck shell=bash
# What the recipes for Market-1501 share. They source this file.
code=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=$code${PYTHONPATH:+:$PYTHONPATH}

# Check the arguments and make OUT/csvs. Takes the names of the recipe's arguments (the first is MARKET, the last OUT),
# then the arguments.
begin() {
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

# Train with the flags of the recipe, or resume a training that was interrupted.
train() {
    if [ -e "$out/experiment/args.json" ]; then
        python "$code/train.py" --experiment_root "$out/experiment" --resume
    else
        python "$code/train.py" --experiment_root "$out/experiment" \
            --train_set "$out/csvs/train.csv" --image_root "$market" "$@"
    fi
}

# Evaluate with ten crops, as the paper does.
evaluate_ten_crop() {
    "$code/recipes/evaluate_ten_crop.sh" "$out/experiment" "$out/csvs/query.csv" "$out/csvs/gallery.csv" market1501 \
        "$out/ten_crop.json" --use_market_ap
}
