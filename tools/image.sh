# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Building pod VM images; sourced after lib.sh. podvm-mkosi/build and podvm-mkosi/sign are the commands over it.
#
# An image is named by a hash of all that goes into it: our programs and units as built, the recipe, the agent, the
# packages of the tree. Where an image of that name exists, nothing is built.
#
#   image_build PROFILE             makes the image of this checkout if need be; sets IMAGE_DIR
#   image_convert DIR FORMAT        makes DIR/podvm.FORMAT of DIR/podvm.raw
#   image_sign DIR KEY CERT NEWDIR  a copy of an image, with its UKI signed
#   $KATA_AGENT                     Kata's agent, for profiles production and debug; tools/image-guest.sh has more of such programs
#   $SFTP_AUTHORIZED_KEYS           for provider byom: the image takes user data by SFTP, from who has one of the keys in that file
#   $PODVM_KERNEL                   generic: Debian's kernel for all hardware, in place of the one for clouds
#
# IMAGE_DIR has podvm.raw, podvm.qcow2, podvm.efi (the UKI), podvm.roothash, podvm.pcr.json (reference values),
# podvm.manifest (mkosi's list of packages) and podvm.spdx.json (the same as a bill of materials).

# shellcheck source=tools/image-guest.sh
. "$PEERPOD_CHECKOUT/tools/image-guest.sh"

IMAGE_KEEP=4                    # finished images kept for each profile, the newest ones
IMAGE_PROFILES=(production debug test bare)
IMAGE_FORMATS=(raw qcow2 vhd tar.gz)
IMAGE_MKOSI_OPTIONS=()          # more for mkosi, from tests of the recipe

# Names that tell variants of a profile apart: profiles of the recipe, beside the main one.
image_variants() {
        [[ -z ${SFTP_AUTHORIZED_KEYS:-} ]] || echo sftp
        [[ ${PODVM_KERNEL:-cloud} != generic ]] || echo generic-kernel
}

# Where the programs' build finds its directories: a meson build directory must not move.
image_build_dirs() { echo "$PEERPOD_CHECKOUT:/work/src $1/build:/work/build $1/extra:/work/extra $1/initrd:/work/initrd"; }

# Our part of the image. Its hash tells whether there is anything to do.
image_build_programs() {
        local out=$1 profile=$2
        rm -rf "$out/extra" "$out/initrd"
        mkdir -p "$out"/{build,extra,initrd}
        TREE_BIND=$(image_build_dirs "$out") TREE_CWD=/work/src \
                tree_run env PROFILE="$profile" SFTP="${SFTP_AUTHORIZED_KEYS:+yes}" SRCDIR=/work/src BUILDDIR=/work/build DESTDIR=/work/extra INITRD_DESTDIR=/work/initrd \
                /work/src/podvm-mkosi/programs
}

image_key() {
        local out=$1 profile=$2
        {
                echo "image 3 $profile $(image_variants | paste -sd-) $(tree_mirror) $(tree_stamp)"
                cat "$PEERPOD_CHECKOUT"/tools/image{,-guest}.sh
                (cd "$out" && find extra initrd -printf '%P %M %l\n' | LC_ALL=C sort)
                (cd "$out" && find extra initrd -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum)
                (cd "$PEERPOD_CHECKOUT/podvm-mkosi" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum)
        } | sha256sum | cut -c1-16
}

image_build() {
        local profile=$1 out key lock log
        [[ " ${IMAGE_PROFILES[*]} " == *" $profile "* ]] || die "unknown image profile '$profile'; there are: ${IMAGE_PROFILES[*]}"
        [[ ${PODVM_KERNEL:-cloud} == @(cloud|generic) ]] || die "PODVM_KERNEL is '$PODVM_KERNEL'; there are: cloud, generic"
        if [[ $profile == @(production|debug) && -z ${KATA_AGENT:-} ]]; then
                die "a $profile image needs Kata's agent: set KATA_AGENT to the path of the program"
        fi

        tree_ensure
        out=$PEERPOD_CACHE/out/image/work/$CHECKOUT_ID-$profile
        log=$PEERPOD_CACHE/log/image-$CHECKOUT_ID-$profile
        mkdir -p "$out"
        exec {lock}>"$PEERPOD_CACHE/out/image/lock-$profile"
        flock -n "$lock" || { say "another command builds a $profile image, waiting for it"; flock "$lock"; }

        step "building the pod VM's programs" "$log-programs.log" image_build_programs "$out" "$profile"
        [[ $profile == bare ]] || image_guest "$out/extra" "$profile"
        key=$(image_key "$out" "$profile")
        IMAGE_DIR=$PEERPOD_CACHE/out/image/$profile-$key
        if [[ -e $IMAGE_DIR/podvm.qcow2 ]]; then
                touch "$IMAGE_DIR"
                say "the $profile image is up to date"
        else
                step "making the $profile image" "$log-mkosi.log" image_make "$out" "$profile" "$IMAGE_DIR"
                image_prune "$profile"
        fi
        exec {lock}>&-
}

# image_make OUT PROFILE DIR [CACHE]: an image in DIR, of what image_build_programs has left in OUT
image_make() {
        local out=$1 profile=$2 dir=$3 cache=${4:-} o variant options=()
        local packages=$PEERPOD_CACHE/out/image/packages

        [[ $profile == bare ]] || mapfile -t options < <(image_guest_packages)
        for variant in $(image_variants); do
                options+=(--profile "$variant")
        done
        [[ -n $cache ]] || cache=$PEERPOD_CACHE/out/image/incremental/$(printf '%s\n' "$profile" $(image_variants) | paste -sd-)

        # The package sources; mkosi's own would name an archive of debug symbols that many mirrors do not have.
        rm -rf "$out"/{sandbox,output,workspace}
        mkdir -p "$out"/{sandbox/etc/apt/sources.list.d,output,workspace} "$packages" "$cache"
        {
                printf 'Types: deb\nURIs: %s\nSuites: trixie trixie-updates\nComponents: main\n' "$(tree_mirror)"
                printf 'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n'
                printf 'Types: deb\nURIs: %s-security\nSuites: trixie-security\nComponents: main\n' "$(tree_mirror)"
                printf 'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n'
        } >"$out/sandbox/etc/apt/sources.list.d/mkosi.sources"

        o=$(image_in_tree "$out")
        if [[ -e $out/initrd/podvm-init ]]; then
                # Unpacked last: it takes the place of the link to systemd.
                rm -rf "$out/first"
                install -D "$out/initrd/podvm-init" "$out/first/init"
                touch -d @0 "$out/first/init"
                TREE_CWD=$o/first tree_run sh -c 'echo init | cpio --quiet --reproducible --owner=0:0 -o -H newc >../first.cpio'
                options+=(--initrd "$o/first.cpio")
        fi
        TREE_CWD=$TREE_SRC/podvm-mkosi tree_run mkosi --force --profile "$profile" \
                --output-directory "$o/output" --workspace-directory "$o/workspace" --cache-directory "$(image_in_tree "$cache")" \
                --package-cache-dir "$(image_in_tree "$packages")" --sandbox-tree "$o/sandbox" --extra-tree "$o/extra" \
                "${options[@]}" "${IMAGE_MKOSI_OPTIONS[@]}" build
        tree_run ukify inspect "$o/output/podvm.efi" --section .cmdline:text --json=short |
                sed -n 's/.*roothash=\([0-9a-f]\{64\}\).*/\1/p' >"$out/output/podvm.roothash"
        [[ -s $out/output/podvm.roothash ]] || { echo "no root hash on the command line of the image" >&2; return 1; }

        # Whole MiB, as some clouds want them
        image_grow "$out/output/podvm.raw" 1M

        rm -rf "$dir.new"
        mkdir "$dir.new"
        mv "$out"/output/podvm.{raw,efi,roothash,manifest} "$dir.new"
        image_describe "$dir.new"
        image_convert "$dir.new" qcow2
        mv -T "$dir.new" "$dir"
        rm -rf "$out/output" "$out/workspace"
}

# image_grow FILE UNIT: to whole UNITs, with the second partition table at its end
image_grow() {
        local out
        truncate --size=%"$2" "$1"
        out=$(TREE_BIND="${1%/*}:/work/disk" tree_run sfdisk --quiet --relocate gpt-bak-std "/work/disk/${1##*/}" 2>&1) ||
                { echo "$out" >&2; return 1; }
}

# image_in_tree PATH: a path below the cache, as the tree has it
image_in_tree() { echo "$TREE_OUT${1#"$PEERPOD_CACHE/out"}"; }

# image_describe DIR: what is known of an image without booting it
image_describe() {
        TREE_BIND="$1:/work/image" tree_run podvm-mkosi/measure /work/image/podvm.efi >"$1/podvm.pcr.json"
        TREE_BIND="$1:/work/image" tree_run podvm-mkosi/sbom /work/image/podvm.manifest "$(cat "$1/podvm.roothash")" \
                >"$1/podvm.spdx.json"
}

image_convert() {
        local new=$1/podvm.$2.new tree=/work/image/podvm.$2.new
        rm -rf "$new"
        case $2 in
        raw) return 0 ;;
        qcow2) TREE_BIND="$1:/work/image" tree_run qemu-img convert -O qcow2 /work/image/podvm.raw "$tree" ;;
        vhd)
                cp --sparse=always "$1/podvm.raw" "$new"
                TREE_BIND="$1:/work/image" tree_run podvm-mkosi/vhd "$tree" "$(cat "$1/podvm.roothash")"
                ;;
        tar.gz)
                # What Google Cloud imports: one file of this name, of whole GiB
                mkdir "$new.d"
                cp --sparse=always "$1/podvm.raw" "$new.d/disk.raw"
                image_grow "$new.d/disk.raw" 1G
                tar -C "$new.d" --format=oldgnu --sparse --owner=0 --group=0 --mtime=@0 --mode=0644 -cf - disk.raw |
                        gzip -n >"$new"
                rm -rf "$new.d"
                ;;
        *) die "unknown image format '$2'; there are: ${IMAGE_FORMATS[*]}" ;;
        esac
        mv "$new" "$1/podvm.$2"
}

# The private key is read where it lies. The root, its hash and all other bytes of the UKI stay.
image_sign() {
        local dir=$1 key certificate new=$4 start
        key=$(readlink -f "$2") certificate=$(readlink -f "$3")
        mkdir -p "$new"
        cp --sparse=always "$dir"/podvm.{raw,efi,roothash,manifest} "$new"
        TREE_BIND="$new:/work/image ${key%/*}:/run/key ${certificate%/*}:/run/certificate" \
                tree_run /usr/lib/systemd/systemd-sbsign sign --private-key="/run/key/${key##*/}" \
                --certificate="/run/certificate/${certificate##*/}" --output=/work/image/podvm.efi.signed /work/image/podvm.efi
        mv "$new/podvm.efi.signed" "$new/podvm.efi"

        # The ESP is the first partition.
        start=$(TREE_BIND="$new:/work/image" tree_run sfdisk --json /work/image/podvm.raw |
                sed -n '0,/"start"/ s/.*"start": \([0-9]*\),.*/\1/p')
        touch -d @315532800 "$new/podvm.efi"    # the first day of FAT
        TREE_BIND="$new:/work/image" tree_run env TZ=UTC mcopy -o -m -i "/work/image/podvm.raw@@$((start * 512))" \
                /work/image/podvm.efi ::/EFI/BOOT/BOOTX64.EFI
        image_describe "$new"
}

# image_sizes DIR: what it weighs, in MB
image_sizes() {
        TREE_BIND="$1:/work/image" TREE_CWD=/work/image tree_run bash -ec '
                line() { awk -v what="$1" -v size="$2" "BEGIN { printf \"%-12s %6.1f MB\\n\", what, size / 1e6 }"; }
                line UKI "$(stat -c %s podvm.efi)"
                sectors=$(sfdisk --json podvm.raw | sed -n "s/.*\"size\": \([0-9]*\),/\1/p" | sed -n 2,3p | paste -sd+)
                line "root, hashes" "$(((sectors) << 9))"
                line image "$(stat -c %s podvm.raw)"
                line "as .zst" "$(zstd -q -T0 -c podvm.raw | wc -c)"' image_sizes
}

image_prune() {
        local d
        # shellcheck disable=SC2012  # the names are ours
        ls -1dt "$PEERPOD_CACHE/out/image/$1-"* | tail -n "+$((IMAGE_KEEP + 1))" | while read -r d; do
                # Not what a worker host starts its VMs from
                grep -qsxF "$d" "$PEERPOD_CACHE"/worker/*/images || rm -rf "$d"
        done
}
