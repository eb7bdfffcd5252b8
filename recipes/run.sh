#!/usr/bin/env bash
# From a public data set as it was downloaded, or from a folder of photos, to figures, by a recipe.
#
#     recipes/run.sh RECIPE IMAGES OUT [flags of train.py]
#
# RECIPE is the name of a recipe of this folder, such as market1501_lunet, or a file. IMAGES is the folder of the data
# set that it is for; docs/recipes.md names it. For own_photos it is a folder that has one folder for each identity.
# This writes csvs/ and experiment/ into OUT, and into the latter a JSON file of figures for each evaluation, where
# runs.py and export.py find them. Call it again, with the same flags, to continue where it stopped.
set -euo pipefail
trap 'exit 130' INT TERM
if [ $# -lt 3 ]; then
    echo "usage: $0 RECIPE IMAGES OUT [flags of train.py]" >&2
    exit 2
fi
recipe=$1 images=$2 out=$3
code=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH=$code${PYTHONPATH:+:$PYTHONPATH}

# All parts before anything slow: a recipe that is wrong ends here, with one line.
part() {
    python -m experiment.recipes "$recipe" "$1"
}
of_data=$(part data)
of_embed=$(part embed)
of_evaluate=$(part evaluate)

read -ra data <<<"$of_data"
if [ ${#data[@]} = 0 ]; then
    echo "$recipe is for your own data: docs/recipes.md has the commands" >&2
    exit 2
fi
python -m "data.${data[0]}" --image_root "$images" --directory "$out/csvs" "${data[@]:1}"
python "$code/train.py" --experiment_root "$out/experiment" --start_or_resume --like "$recipe" \
    --train_set "$out/csvs/train.csv" --image_root "$images" "${@:4}"

query=$out/csvs/query.csv gallery=$out/csvs/gallery.csv
if [ ! -e "$query" ]; then # test images are both
    query=$out/csvs/test.csv gallery=$query
fi
sets=("$query")
[ "$query" = "$gallery" ] || sets+=("$gallery")
read -ra flags <<<"$of_embed"
# --overwrite: those of an earlier call
python "$code/embed.py" --experiment_root "$out/experiment" --overwrite --dataset "${sets[@]}" "${flags[@]}"
while read -ra flags; do # a line for each evaluation: its name, then its flags
    [ ${#flags[@]} = 0 ] && continue
    python "$code/evaluate.py" --experiment_root "$out/experiment" --filename "$out/experiment/${flags[0]}.json" \
        --query_dataset "$query" --gallery_dataset "$gallery" "${flags[@]:1}"
done <<<"$of_evaluate"
