#!/bin/sh
# Checks this proof with cosign, openssl and coreutils, without a network and without Longseal.
#
#   ./verify.sh key=sha256:HEX tsa=sha256:HEX [tsa=sha256:HEX ...] [quorum=N]
#
# key: fingerprint of the organisation's key (openssl pkey -pubin -outform DER | sha256sum)
# tsa: fingerprint of a timestamp authority's root certificate that you believe; of each of them
# quorum: how many authorities must have stamped each seal (1 if not given)
#
# The fingerprints must come to you by another way than this folder: they are what everything
# below rests on. docs/formats/proof.md says what is checked, and why that is enough.

set -eu
LC_ALL=C
export LC_ALL
cd "$(dirname "$0")"
COSIGN=${COSIGN:-cosign}
keys= roots= quorum=1
for argument in "$@"; do
    case $argument in
        key=sha256:*) keys="$keys ${argument#key=sha256:}" ;;
        tsa=sha256:*) roots="$roots ${argument#tsa=sha256:}" ;;
        quorum=[1-9]) quorum=${argument#quorum=} ;;
        *) echo "not understood: $argument" >&2; exit 2 ;;
    esac
done
if [ -z "$keys" ] || [ -z "$roots" ]; then
    sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "FAILED: $*" >&2; exit 1; }
sum256() { sha256sum "$1" | cut -d' ' -f1; }
sum512() { sha512sum "$1" | cut -d' ' -f1; }
# The text after KEY in one line of RFC 8785 JSON; no quote stands unescaped inside a text there.
text() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p' "$2"; }
listed() { case " $2 " in *" $1 "*) return 0 ;; esac; return 1; }

# 1. Every file is the one that was written, and there is no other.
sha256sum --check --strict --quiet SHA256SUMS || fail "a file is not the one that was written"
find . -type f ! -path ./verify.sh ! -path ./SHA256SUMS | sort > "$work/there"
sed 's/^[0-9a-f]*  /.\//' SHA256SUMS | sort > "$work/named"
cmp -s "$work/there" "$work/named" || fail "a file is missing, or one is here that nobody listed"

# 2. A seal: the organisation's key, enough timestamps, cosign. Leaves $work/statement.
subject() { # FOLDER-OR-FILE NAME: the seal speaks of this file
    expected="{\"digest\":{\"sha256\":\"$(sum256 "$1")\",\"sha512\":\"$(sum512 "$1")\"},\"name\":\"$2\"}"
    grep -qF "$expected" "$work/statement" || fail "$1 is not the $2 that was sealed"
}
stamped() { # DATA TOKENS AUTHORITIES [THEN]: enough of them stamped DATA, and could still be checked
    # at the time THEN; leaves the first time in $first and the last in $last
    good=0 first= last=
    for authority in "$3"/*; do
        root=$(openssl x509 -in "$authority/root.pem" -outform DER | sha256sum | cut -d' ' -f1)
        listed "$root" "$roots" || continue
        found=
        for token in "$2"/*.tsr; do
            time=$(openssl ts -reply -in "$token" -text 2>/dev/null | sed -n 's/^Time stamp: //p')
            time=$(date -u -d "$time" +%s) || continue
            openssl ts -verify -data "$1" -in "$token" -CAfile "$authority/root.pem" \
                -untrusted "$authority/chain.pem" -attime "$time" > /dev/null 2>&1 || continue
            openssl ts -verify -data "$1" -in "$token" -CAfile "$authority/root.pem" \
                -untrusted "$authority/chain.pem" -attime "${4:-$time}" > /dev/null 2>&1 || continue
            found=yes
            if [ -z "$first" ] || [ "$time" -lt "$first" ]; then first=$time; fi
            if [ -z "$last" ] || [ "$time" -gt "$last" ]; then last=$time; fi
        done
        [ -z "$found" ] || good=$((good + 1))
    done
    [ "$good" -ge "$quorum" ] || fail "$good of $quorum timestamps that are needed, in $2"
}
tokens() { # FILE FOLDER: the base64 tokens of a JSON file, each into a file
    mkdir -p "$2"
    rm -f "$2"/*.tsr
    tr ',[{' '\n\n\n' < "$1" | sed -n 's/.*"signedTimestamp":"\([^"]*\)".*/\1/p;s/^"\([A-Za-z0-9+/=]\{40,\}\)"[]}]*$/\1/p' \
        > "$work/tokens"
    number=0
    while read -r token || [ -n "$token" ]; do
        printf '%s' "$token" | base64 -d > "$2/$number.tsr"
        number=$((number + 1))
    done < "$work/tokens"
    [ "$number" -gt 0 ] || fail "$1 has no timestamp"
}
seal() { # FOLDER [THEN]: check the seal in it, whose timestamps must still have held at THEN
    bundle=$1/seal.sigstore.json
    text payload "$bundle" | base64 -d > "$work/statement"
    text sig "$bundle" | base64 -d > "$work/signature"
    { printf 'DSSEv1 28 application/vnd.in-toto+json %d ' "$(wc -c < "$work/statement")"
      cat "$work/statement"; } > "$work/message"
    keyid=$(openssl pkey -pubin -in "$1/key.pub" -outform DER | sha256sum | cut -d' ' -f1)
    grep -qF "\"keyid\":\"$keyid\"" "$work/statement" || fail "$bundle names another key than key.pub"
    if openssl pkey -pubin -in "$1/key.pub" -noout -text | grep -q ED25519; then
        openssl pkeyutl -verify -rawin -pubin -inkey "$1/key.pub" -sigfile "$work/signature" \
            -in "$work/message" > /dev/null || fail "the signature of $bundle does not hold"
    else
        openssl dgst -sha256 -verify "$1/key.pub" -signature "$work/signature" \
            "$work/message" > /dev/null || fail "the signature of $bundle does not hold"
    fi
    tokens "$bundle" "$work/tokens.d"
    stamped "$work/signature" "$work/tokens.d" "$1/tsa" "${2:-}"
    signed=$first complete=$last
    subject "$1/checkpoint" checkpoint
    subject "$1/key-set.json" key-set.json
    subject "$1/seals.sha256" seals.sha256
    flags="--use-signed-timestamps --insecure-ignore-tlog=true"
    if grep -q '"tlogEntries":\[{' "$bundle"; then flags=; fi
    # shellcheck disable=SC2086
    "$COSIGN" verify-blob-attestation --bundle "$bundle" --key "$1/key.pub" $flags \
        --trusted-root "$1/seal-trusted-root.json" --type "$(text predicateType "$work/statement")" \
        "$1/checkpoint" > "$work/cosign" 2>&1 || { cat "$work/cosign" >&2; fail "cosign refuses $bundle"; }
    # The same without a key: it outlives the key, and no key can be made up to fit it.
    tokens "$1/renewal.tokens.json" "$work/tokens.d"
    stamped "$1/renewal.sha512" "$work/tokens.d" "$1/tsa"
    named "$bundle" "$1/renewal.sha512"
    named "$1/seal-trusted-root.json" "$1/renewal.sha512"
}
named() { # FILE LIST: the list has the seal's file
    grep -q "^$(sum512 "$1")  seals/[0-9]*/${1##*/}\$" "$2" || fail "$2 does not have $1"
}
covered() { # the key set $work/key-set has $keyid, and its window has the time $first in it
    at=$(date -u -d "@$signed" +%Y-%m-%dT%H:%M:%SZ)
    tr '{' '\n' < "$work/key-set" | grep -F "\"keyid\":\"$keyid\"" > "$work/key" ||
        fail "key sha256:$keyid is neither given nor in the key set"
    from=$(text from "$work/key") until=$(text until "$work/key")
    expr "$at" '>=' "$from" > /dev/null || fail "key sha256:$keyid signed before $from"
    [ -z "$until" ] || expr "$at" '<' "$until" > /dev/null || fail "key sha256:$keyid signed after $until"
}

# 3. The newest seal is by a key that was given; it vouches for the key set. Each seal vouches for the
#    one before it, and was made while that one's timestamps held (RFC 4998, 5.3), down to the seal
#    of this attestation.
folders=seal
for folder in renewals/*/; do [ ! -d "$folder" ] || folders="${folder%/} $folders"; done
later=
for folder in $folders; do
    seal "$folder" ${later:+"$complete"}
    if [ -z "$later" ]; then
        listed "$keyid" "$keys" || fail "$folder is signed by key sha256:$keyid, which was not given"
        cp "$folder/key-set.json" "$work/key-set"
        covered
    else
        listed "$keyid" "$keys" || covered
        grep -q "^$(sum256 "$folder/seal.sigstore.json")  seals/[0-9]*/seal.sigstore.json\$" \
            "$later/seals.sha256" || fail "$later does not renew $folder"
        named "$folder/seal.sigstore.json" "$later/renewal.sha512"
    fi
    later=$folder
done
sealed=$(date -u -d "@$signed" +%Y-%m-%d)

# 4. The attestation's leaf is in the tree whose checkpoint was sealed (RFC 9162, 2.1.3.2).
sed -n '/^$/,$p' leaf.tlog-proof | tail -n +2 > "$work/note"
cmp -s "$work/note" seal/checkpoint || fail "leaf.tlog-proof is not about the sealed checkpoint"
size=$(sed -n 2p seal/checkpoint)
sed -n 3p seal/checkpoint | base64 -d > "$work/root"
node=$(sed -n 's/^index //p' leaf.tlog-proof)
last=$((size - 1))
[ "$node" -le "$last" ] || fail "a tree of $size leaves has no leaf $node"
{ printf '\000'; cat leaf.json; } | openssl dgst -sha256 -binary > "$work/hash"
sed '1,/^index /d;/^$/,$d' leaf.tlog-proof > "$work/path"
while read -r sibling; do
    [ "$last" -gt 0 ] || fail "the inclusion proof is longer than the tree is high"
    printf '%s' "$sibling" | base64 -d > "$work/sibling"
    if [ $((node & 1)) -eq 1 ] || [ "$node" -eq "$last" ]; then
        { printf '\001'; cat "$work/sibling" "$work/hash"; } | openssl dgst -sha256 -binary > "$work/next"
        while [ $((node & 1)) -eq 0 ] && [ "$node" -gt 0 ]; do node=$((node >> 1)) last=$((last >> 1)); done
    else
        { printf '\001'; cat "$work/hash" "$work/sibling"; } | openssl dgst -sha256 -binary > "$work/next"
    fi
    mv "$work/next" "$work/hash"
    node=$((node >> 1)) last=$((last >> 1))
done < "$work/path"
[ "$last" -eq 0 ] || fail "the inclusion proof is shorter than the tree is high"
cmp -s "$work/hash" "$work/root" || fail "the leaf is not in the sealed tree"

# 5. The leaf speaks of these bytes, judged under this policy and this trusted root.
grep -qF "\"bundle\":{\"sha256\":\"$(sum256 attestation)\",\"sha512\":\"$(sum512 attestation)\",\"size\":$(wc -c < attestation)}" \
    leaf.json || fail "the leaf speaks of another attestation"
[ "$(text manifest leaf.json)" = "sha256:$(sum256 manifest.json)" ] || fail "the leaf names another manifest"
[ "$(text policy leaf.json)" = "sha256:$(sum256 policy.json)" ] || fail "the leaf names another policy"
[ "$(text trust leaf.json)" = "sha256:$(sum256 trusted_root.json)" ] || fail "the leaf names another trusted root"
[ "$(text verdict leaf.json)" = verified ] || fail "the leaf does not say that it was verified"
for file in material/*; do
    [ ! -f "$file" ] || grep -qF "\"sha256:$(sum256 "$file")\"" leaf.json || fail "the leaf names no $file"
done

# 6. cosign verifies the attestation itself, as it was signed then: by a certificate for the leaf's
#    identity and issuer, or by the key that the leaf names.
image=$(text image leaf.json) signer=$(text identity leaf.json) issuer=$(text issuer leaf.json)
set -- --certificate-identity "$signer" --certificate-oidc-issuer "$issuer"
case $issuer in
    # The certificate names none: the leaf has the authority's own name, which its chain proves.
    CN=*) set -- --certificate-identity "$signer" --certificate-oidc-issuer-regexp '.*' ;;
esac
if [ -z "$signer" ]; then
    signer="the key $(text key leaf.json)"
    [ "$signer" = "the key sha256:$(openssl pkey -pubin -in signer.pub -outform DER | sha256sum | cut -d' ' -f1)" ] ||
        fail "signer.pub is not the key that the leaf names"
    set -- --key signer.pub
fi
has() { tr -d ' \r\n\t' < "$2" | grep -q "\"$1\":\\[{"; }
if [ -f bundle.sigstore.json ]; then
    # What has no log entry was verified by its timestamp; where the root has no log of
    # certificates, none is asked for.
    has tlogEntries bundle.sigstore.json || set -- "$@" --use-signed-timestamps --insecure-ignore-tlog=true
    has ctlogs trusted_root.json || set -- "$@" --insecure-ignore-sct=true
    # What names no image is filed under its own digest.
    if [ "$image" = "sha256:$(sum256 attestation)" ]; then
        set -- "$@" --check-claims=false
    else
        set -- "$@" --digest "${image#sha256:}" --digestAlg sha256
    fi
    "$COSIGN" verify-blob-attestation --bundle bundle.sigstore.json --trusted-root trusted_root.json \
        --type "$(text predicateType leaf.json)" "$@" \
        > "$work/cosign" 2>&1 || { cat "$work/cosign" >&2; fail "cosign refuses the attestation"; }
    signed_by="signed by $signer"
else
    signed_by="which says that it was verified; cosign has no way to check it again"
fi
echo "verified: $(text predicateType leaf.json) about $image, sealed on $sealed, $signed_by"
