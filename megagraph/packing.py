"""Small blobs made smaller: zlib, with the words that checkpoints are full of known beforehand.

A checkpoint is some hundred bytes of names that every other one has too. Without a dictionary there is next to
nothing to compress in it; with one, a third is left.
"""

from __future__ import annotations

import zlib

_RAW, _WORDS_1 = b"\0", b"\1"
"""The first byte says how the rest is packed. A dictionary that blobs were packed with is never changed: a better
one gets a number of its own."""

_SMALL = 60
"""Bytes that are not worth the work."""

_DICTIONARY = "".join(
    (
        "lc_attributesinvalid_tool_callsusage_metadataresponse_metadataadditional_kwargsfinish_reasontool_calls",
        "model_validate_json\x93\xbdlangchain_core.messages.system\xadSystemMessage",
        "\x94\xbblangchain_core.messages.tool\xabToolMessage\xb3model_validate_json",
        "artifacttool_call_idstatussuccesserrortooltext",
        "\x94\xbclangchain_core.messages.human\xacHumanMessagehuman",
        "langchain_core.messages.ai\xa9AIMessage",
        "\x87\xa7content\xb1additional_kwargs\x80\xb1response_metadata\x81\xadfinish_reason\xa4stop\xa4type\xa2ai",
        "\xa4name\xc0\xa2id\xc0\xaatool_calls\x91\x84\xa4name\xa4args\xa2id\xa4type\xa9tool_call",
        "\xb2invalid_tool_calls\x90\xaeusage_metadata\x83\xacinput_tokens\xadoutput_tokens\xactotal_tokens",
        "\xb3input_token_details\x81\xaacache_read\xb4output_token_details\xa9reasoning",
        "recruittalklist_filesread_filewrite_fileedit_filerun_programupdate_todofinishdismisssearch_files",
        "pathcontentsummaryartefactstododoneargsstdinmessagetoagentsversionbase",
        '<letter from="boss" kind="report"></letter><note></note>kind="message"Artefacts: ',
        '{"source": "input", "step": -1, "parents": {"": "",{"source": "loop", "step": ',
        '"counters_since_delta_snapshot": {"spec": [1, 4], "messages": [2, 4], "seen": [2, 4], "versions": [1, 4],',
        ' "todo": [1, 4], "guards": [1, 4]}, "lead": [1, 2]}',
        "~__pregel_pull, think~__pregel_pull, act~__pregel_pull, team~__pregel_pull, wait~__pregel_pull, desk",
        "__pregel_tasks__interrupt____resume____error____no_writes__",
        "namerolecoderinstructionsdeliverablesdepends_onleaddepthwavepartreportfailedmissingmemberbossdesk",
        "\xa1v\x04\xa2ts\xd9 2026-11-24T18:36:33.220734+00:00\xa2id\xd9$1f1e835f-8ea3-6d0a-8000-765334db8b0c",
        "\xaechannel_values\xa4seat\xa6member\xa4step\xa4wave\xa4plan\x90\xa6report\xa7version\xd9(\xabbranch:to:wait",
        "\xb0channel_versions\xa9__start__\xa4seat\xa4spec\xa8messages\xa4step\xa4wave\xa4plan\xa6report",
        "\xa7work_on\xa4told\xa3bad\xa4seen\xa8versions\xa4todo\xa6guards\xa7version",
        "\xafbranch:to:think\xadbranch:to:act\xaebranch:to:team\xaebranch:to:wait",
        "\xadversions_seen\x84\xa9__input__\x80\xa9__start__\x81\xa9__start__\x01",
        "\xa5think\x81\xafbranch:to:think\x04\xa3act\x81\xadbranch:to:act\x03\xa4wait\x81\xaebranch:to:wait\x02",
        "\xb0updated_channels\x94\xadbranch:to:act\xa6guards\xa8messages\xa4seen\xa4step",
    )
).encode("latin-1")


def pack(data: bytes) -> bytes:
    """The blob as it is stored."""
    if len(data) < _SMALL:
        return _RAW + data
    compressor = zlib.compressobj(6, zdict=_DICTIONARY)
    packed = compressor.compress(data) + compressor.flush()
    return _WORDS_1 + packed if len(packed) < len(data) else _RAW + data


def unpack(stored: bytes) -> bytes:
    """What was packed. Raises `ValueError` where the blob is damaged."""
    match stored[:1]:
        case b"\0":
            return stored[1:]
        case b"\1":
            decompressor = zlib.decompressobj(zdict=_DICTIONARY)
            try:
                return decompressor.decompress(stored[1:]) + decompressor.flush()
            except zlib.error as error:
                raise ValueError(str(error)) from error
        case other:
            raise ValueError(f"packed in an unknown way, {other!r}")
