# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Building pod VM images; sourced after lib.sh. podvm-mkosi/build is the command over it.
#
# An image is named by a hash of all that goes into it: our programs and units as built, the recipe, the agent, the
# packages of the tree. Where an image of that name exists, nothing is built.
#
#   image_build PROFILE       makes the image of this checkout if need be; sets IMAGE_DIR
#   $KATA_AGENT               Kata's agent, for profile production; tools/image-guest.sh has more of such programs
#
# IMAGE_DIR has podvm.raw, podvm.qcow2, podvm.efi (the UKI), podvm.roothash and podvm.manifest.

# shellcheck source=tools/image-guest.sh
. "$PEERPOD_CHECKOUT/tools/image-guest.sh"

IMAGE_KEEP=4                    # finished images kept for each profile, the newest ones

# Where mkosi.build finds its directories, here as in mkosi: a meson build directory must not move.
image_build_dirs() { echo "$PEERPOD_CHECKOUT:/work/src $1/build:/work/build"; }

# Our part of the image, built the way mkosi will, so that its hash tells whether there is anything to do
image_build_programs() {
        local out=$1 profile=$2
        rm -rf "$out/stage"
        mkdir -p "$out/build" "$out/stage"
        TREE_BIND="$(image_build_dirs "$out") $out/stage:/work/dest" TREE_CWD=/work/src \
                tree_run env PROFILES="$profile" SRCDIR=/work/src BUILDDIR=/work/build DESTDIR=/work/dest \
                /work/src/podvm-mkosi/mkosi.build
}

image_key() {
        local out=$1 profile=$2
        {
                echo "image 1 $profile $(tree_mirror)"
                cat "$PEERPOD_TREE.stamp"
                cat "$PEERPOD_CHECKOUT"/tools/image{,-guest}.sh
                (cd "$out" && find stage extra -printf '%p %M %l\n' | LC_ALL=C sort)
                (cd "$out" && find stage extra -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum)
                (cd "$PEERPOD_CHECKOUT/podvm-mkosi" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum)
        } | sha256sum | cut -c1-16
}

image_build() {
        local profile=$1 out key lock log log_mkosi
        case $profile in
        test) ;;
        production) [[ -n ${KATA_AGENT:-} ]] || die "a production image needs Kata's agent: set KATA_AGENT to the path of the program" ;;
        *) die "unknown image profile '$profile'; there are: test, production" ;;
        esac

        tree_ensure
        out=$PEERPOD_CACHE/out/image/work/$CHECKOUT_ID-$profile
        log=$PEERPOD_CACHE/log/image-$CHECKOUT_ID-$profile
        mkdir -p "$out"
        exec {lock}>"$PEERPOD_CACHE/out/image/lock"
        flock -n "$lock" || { say "another command builds an image, waiting for it"; flock "$lock"; }

        step "building the pod VM's programs" "$log-programs.log" image_build_programs "$out" "$profile"
        image_guest "$out/extra" "$profile"
        key=$(image_key "$out" "$profile")
        IMAGE_DIR=$PEERPOD_CACHE/out/image/$profile-$key
        if [[ -e $IMAGE_DIR/podvm.qcow2 ]]; then
                touch "$IMAGE_DIR"
                say "the $profile image is up to date"
        else
                log_mkosi=$log-mkosi.log
                step "making the $profile image" "$log_mkosi" image_make "$out" "$profile" "$IMAGE_DIR"
                image_prune "$profile"
        fi
        exec {lock}>&-
}

image_make() {
        local out=$1 profile=$2 dir=$3 o packages
        local shared=$PEERPOD_CACHE/out/image

        # Staged for mkosi: the package sources. Its own would name an archive of debug
        # symbols that many mirrors do not have.
        rm -rf "$out/sandbox" "$out/output" "$out/workspace"
        mkdir -p "$out"/{sandbox/etc/apt/sources.list.d,output,workspace} "$shared/packages" "$shared/cache-$profile"
        {
                printf 'Types: deb\nURIs: %s\nSuites: trixie trixie-updates\nComponents: main\n' "$(tree_mirror)"
                printf 'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n'
                printf 'Types: deb\nURIs: %s-security\nSuites: trixie-security\nComponents: main\n' "$(tree_mirror)"
                printf 'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n'
        } >"$out/sandbox/etc/apt/sources.list.d/mkosi.sources"

        mapfile -t packages < <(image_guest_packages)
        o=$TREE_OUT/image/work/$(basename "$out")
        TREE_BIND=$(image_build_dirs "$out") TREE_CWD=/work/src/podvm-mkosi tree_run mkosi --force --profile "$profile" "${packages[@]}" \
                --output-directory "$o/output" --build-directory /work/build --build-sources /work/src \
                --workspace-directory "$o/workspace" --cache-directory "$TREE_OUT/image/cache-$profile" \
                --package-cache-dir "$TREE_OUT/image/packages" --sandbox-tree "$o/sandbox" --extra-tree "$o/extra" build
        tree_run qemu-img convert -O qcow2 "$o/output/podvm.raw" "$o/output/podvm.qcow2"
        tree_run ukify inspect "$o/output/podvm.efi" --section .cmdline:text --json=short |
                sed -n 's/.*roothash=\([0-9a-f]\{64\}\).*/\1/p' >"$out/output/podvm.roothash"
        [[ -s $out/output/podvm.roothash ]] || { echo "no root hash on the command line of the image" >&2; return 1; }

        rm -rf "$dir.new"
        mkdir "$dir.new"
        mv "$out"/output/podvm.{raw,qcow2,efi,roothash,manifest} "$dir.new"
        mv -T "$dir.new" "$dir"
        rm -rf "$out/output" "$out/workspace"
}

image_prune() {
        local d
        # shellcheck disable=SC2012  # the names are ours
        ls -1dt "$PEERPOD_CACHE/out/image/$1-"* | tail -n "+$((IMAGE_KEEP + 1))" | while read -r d; do
                # Not what a worker host starts its VMs from
                grep -qsxF "$d" "$PEERPOD_CACHE"/worker/*/images || rm -rf "$d"
        done
}
