#!/usr/bin/env bash
# From a public data set as it was downloaded, or from a folder of photos, to figures, by a recipe.
#
#     recipes/run.sh RECIPE.json IMAGES OUT [flags of train.py]
#
# IMAGES is the folder of the data set that the recipe is for; docs/recipes.md names it. For own_photos.json it is a
# folder that has one folder for each identity. This writes csvs/ and experiment/ into OUT, and into the latter a JSON
# file of figures for each evaluation, where runs.py and export.py find them. Call it again, with the same flags, to
# continue where it stopped.
set -euo pipefail
trap 'exit 130' INT TERM
if [ $# -lt 3 ]; then
    echo "usage: $0 RECIPE.json IMAGES OUT [flags of train.py]" >&2
    exit 2
fi
recipe=$1 images=$2 out=$3
code=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH=$code${PYTHONPATH:+:$PYTHONPATH}

# A part of the recipe; of evaluate, a line for each evaluation: its name, then its flags.
part() {
    python -c '
import json, sys
part = json.load(open(sys.argv[1], encoding="utf-8")).get(sys.argv[2], "")
print(part if isinstance(part, str) else "\n".join(f"{name} {flags}" for name, flags in part.items()))
' "$recipe" "$1"
}

read -ra data < <(part data)
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
read -ra flags < <(part embed)
# --overwrite: those of an earlier call
python "$code/embed.py" --experiment_root "$out/experiment" --overwrite --dataset "${sets[@]}" "${flags[@]}"
part evaluate | while read -ra flags; do
    python "$code/evaluate.py" --experiment_root "$out/experiment" --filename "$out/experiment/${flags[0]}.json" \
        --query_dataset "$query" --gallery_dataset "$gallery" "${flags[@]:1}"
done
