#!/usr/bin/env bash
# StarCraft II 4.10 for Linux and the SMAC maps:   ACCEPT_SC2_EULA=yes docker/install_sc2.sh [FOLDER]
#   FOLDER       where to (default: $SC2PATH, else ~/StarCraftII)
#   SC2_SHA256   if set, the archive must have this checksum
# Needs curl and unzip, and about 10 GB while it works. What is there already is not fetched again.
set -euo pipefail

folder=${1:-${SC2PATH:-$HOME/StarCraftII}}
game=https://blzdistsc2-a.akamaihd.net/Linux/SC2.4.10.zip
maps=https://github.com/oxwhirl/smacv2/releases/download/maps/SMAC_Maps.zip

if [ "${ACCEPT_SC2_EULA:-no}" != yes ]; then
    echo "StarCraft II comes under Blizzard's AI and Machine Learning License; read it, then set ACCEPT_SC2_EULA=yes" >&2
    exit 2
fi
for tool in curl unzip; do
    command -v "$tool" > /dev/null || { echo "$tool is needed and not there" >&2; exit 2; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fetch() { curl --fail --location --retry 5 --silent --show-error --output "$2" "$1"; }

copy() { mkdir -p "$2" && touch "$2/.unfinished" && cp -a "$1/." "$2/" && rm "$2/.unfinished"; }
cut_off() { [ -e "$1/.unfinished" ]; } # a full disk, Ctrl-C: some of it is there
game_is_there() { compgen -G "$folder/Versions/Base*/SC2_x64" > /dev/null; }
map=$folder/Maps/SMAC_Maps/32x32_flat.SC2Map # the one that SMACv2 plays on; the maps of the first SMAC are others

if ! game_is_there || cut_off "$folder"; then
    fetch "$game" "$work/sc2.zip"
    if [ -n "${SC2_SHA256:-}" ]; then
        echo "$SC2_SHA256  $work/sc2.zip" | sha256sum --check --quiet
    fi
    unzip -q -P iagreetotheeula "$work/sc2.zip" -d "$work" # the password is the acceptance of the licence
    copy "$work/StarCraftII" "$folder"
fi
if [ ! -f "$map" ] || cut_off "${map%/*}"; then
    fetch "$maps" "$work/maps.zip"
    unzip -q "$work/maps.zip" -d "$work/maps"
    mkdir "$work/flat"
    find "$work/maps" -name '*.SC2Map' -exec mv {} "$work/flat/" \;
    copy "$work/flat" "${map%/*}"
fi
game_is_there || { echo "there is still no $folder/Versions/Base*/SC2_x64" >&2; exit 1; }
[ -f "$map" ] || { echo "there is still no $map" >&2; exit 1; }
echo "StarCraft II is in $folder, with $(find "$folder/Maps/SMAC_Maps" -name '*.SC2Map' | wc -l) maps"
