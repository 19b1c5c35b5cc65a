"""The table of sub-commands: for each its settings, its function, what shows the result, and examples."""

from __future__ import annotations

from dataclasses import dataclass

from comem.registry import Registry


@dataclass(frozen=True)
class Command:
    """A sub-command: the thin face of one typed function of one settings dataclass.

    Places are written "module:attribute", and are imported only when the command is called. A command without
    settings is a group: it lists the commands whose names begin with its own.

    Attributes:
        summary: what it does, in one line.
        settings: its settings, a frozen dataclass; its docstring is the help.
        run: `run(settings) -> result`; may take the keyword `progress` (`comem.io.console.Progress`).
        show: `show(result, settings) -> exit code or None`; prints.
        extra: a dataclass of options that are no settings (`--dry-run`): `run(settings, extra)`.
        plan: what --dry-run does, `plan(settings, extra)`; `run` is then called without `extra`.
        examples: shown by --help.
        recipes: the folder of its recipes (`--config NAME`).
    """

    summary: str
    settings: str = ""
    run: str = ""
    show: str = ""
    extra: str = ""
    plan: str = ""
    examples: tuple[str, ...] = ()
    recipes: str = ""


COMMANDS: Registry[Command] = Registry(
    "sub-command",
    {
        "quickstart": Command(
            "the whole method on the embedded world",
            settings="comem.quickstart:QuickSettings",
            run="comem.quickstart:quickstart",
            show="comem.quickstart:show",
            examples=(
                "comem quickstart --fast              two minutes: a small world, a few seconds of training",
                "comem quickstart                     ten minutes",
                "comem quickstart --all-benchmarks    every benchmark in every mode: fifteen minutes",
                "comem quickstart --flags ../shared/data/flags --output runs/with-flags",
            ),
        ),
        "toy": Command("the embedded world as files", examples=("comem toy build data/toy",)),
        "toy build": Command(
            "write images, a WIT table and InfoSeek-style questions",
            settings="comem.toy.dataset:DataSettings",
            run="comem.toy.dataset:build",
            show="comem.toy.commands:show_counts",
            examples=("comem toy build data/toy", "comem toy build data/toy --size 500 --languages en es"),
        ),
        "toy dialogues": Command(
            "write dialogues to train a memory encoder on",
            settings="comem.toy.dialogues:DialogueSettings",
            run="comem.toy.dialogues:build_dialogues",
            show="comem.toy.commands:show_counts",
            examples=("comem toy dialogues data/dialogues --items 1 2 3 --count 4000",),
        ),
        "toy benchmarks": Command(
            "write questions in the published format of every benchmark",
            settings="comem.toy.benchmark_files:FilesSettings",
            run="comem.toy.benchmark_files:build_files",
            show="comem.toy.commands:show_counts",
            examples=("comem toy benchmarks data/benchmarks --questions 50",),
        ),
        "toy videos": Command(
            "write clips and questions about what they showed once",
            settings="comem.toy.videos:VideosSettings",
            run="comem.toy.videos:build_videos",
            show="comem.toy.commands:show_counts",
            examples=("comem toy videos data/toy-videos --lengths 8 64 --clips 10",),
        ),
        "toy text-reader": Command(
            "write a model's language part as a text-only reader",
            settings="comem.toy.commands:TextReaderSettings",
            run="comem.toy.commands:write_text_reader",
            show="comem.toy.commands:show_counts",
            examples=("comem toy text-reader models/toy-text",),
        ),
        "backbone": Command("what models can do here", examples=("comem backbone check toy",)),
        "backbone check": Command(
            "ask a model what it can do: images, batches, memories, packing",
            settings="comem.backbones.settings:BackboneCheckSettings",
            run="comem.memory.probe:check",
            show="comem.memory.probe:show_check",
            examples=(
                "comem backbone check toy",
                "comem backbone check HuggingFaceTB/SmolLM2-135M-Instruct --output smollm2.json",
            ),
        ),
        "toy comemo": Command(
            "write a small CoMemo to train, and its conversations",
            settings="comem.toy.comemo:ComemoSettings",
            run="comem.toy.comemo:build_comemo",
            show="comem.toy.commands:show_counts",
            examples=("comem toy comemo data/comemo", "comem toy comemo data/tiles --wide 2 --max-tiles 2"),
        ),
        "backbone table": Command(
            "probe every family that transformers loads, and write the table of docs/backbones.md",
            settings="comem.backbones.settings:BackboneTableSettings",
            run="comem.memory.survey:survey",
            show="comem.memory.survey:show_survey",
            examples=("comem backbone table --output docs/backbones.md",),
        ),
        "corpus": Command(
            "build a knowledge base from WIT or from your own files",
            examples=(
                "comem corpus build wit_v1.train.all-*.tsv.gz --output wit --languages en es --workers 8",
                "comem corpus build my-images/ --output mine            # a.jpg beside a.txt",
                "comem corpus build items.csv --output mine --columns id=sku text=about image=file",
                "comem corpus build hf:wikimedia/wit_base:train --output wit-base",
                "comem corpus download wit --contact you@example.org",
                "comem corpus embed wit --embedder ViT-L-14:openai --precision fp16 --batch-size 256",
                "comem index build --corpus wit --output wit",
                "comem corpus info wit --verify",
            ),
        ),
        "corpus build": Command(
            "read WIT, tables, folders or data sets into a corpus folder",
            settings="comem.retrieval.corpus.sources:CorpusSettings",
            run="comem.retrieval.corpus.build:build_corpus",
            show="comem.retrieval.commands:show_corpus",
            examples=(
                "comem corpus build wit_v1.train.all-*.tsv.gz --output wit --languages en es --workers 8",
                "comem corpus build items.csv --output mine --columns id=sku text=about image=file",
                "comem corpus build my-videos/ --output films --segment 32",
            ),
        ),
        "corpus download": Command(
            "fetch the images that a corpus has URLs of",
            settings="comem.retrieval.settings:CorpusDownloadSettings",
            run="comem.retrieval.commands:download",
            show="comem.retrieval.commands:show_download",
            examples=("comem corpus download wit --contact you@example.org",),
        ),
        "corpus embed": Command(
            "vectors of images and texts, for the index and other tools",
            settings="comem.retrieval.settings:EmbedSettings",
            run="comem.retrieval.embed:embed_corpus",
            show="comem.retrieval.commands:show_embedded",
            examples=("comem corpus embed wit --embedder ViT-L-14:openai --precision fp16 --batch-size 256",),
        ),
        "corpus info": Command(
            "what a corpus folder holds and what was dropped",
            settings="comem.retrieval.settings:InfoSettings",
            run="comem.retrieval.commands:open_corpus",
            show="comem.retrieval.commands:show_corpus",
            examples=("comem corpus info wit --verify",),
        ),
        "index": Command(
            "embed a knowledge base with CLIP and index it",
            examples=(
                "comem index build --corpus wit.tsv.gz --embedder ViT-L-14:openai --output wit-index",
                "comem index build --corpus data/toy/wit.tsv.gz --embedder toy --output data/toy/index",
                "comem index search --index data/toy/index --image data/toy/images/T00001_1.png",
            ),
        ),
        "index build": Command(
            "corpora to knowledge base and index",
            settings="comem.retrieval.settings:IndexSettings",
            run="comem.retrieval.commands:index",
            show="comem.retrieval.commands:show_index",
            examples=(
                "comem index build --corpus wit.tsv.gz --embedder ViT-L-14:openai --output wit-index",
                "comem index build --corpus mine --output mine --embedder toy index.factory=HNSW32",
            ),
            recipes="retrieval",
        ),
        "index import": Command(
            "another group's FAISS index over Wikipedia's images (EchoSight, ReflectiVA) as an index",
            settings="comem.retrieval.exchange:ImportSettings",
            run="comem.retrieval.exchange:import_index",
            show="comem.retrieval.commands:show_imported",
            examples=(
                "comem index import --vectors kb_index.faiss --ids kb_index_ids.pkl \\",
                "    --knowledge encyclopedic_kb_wiki.json --embedder BAAI/EVA-CLIP-8B --output evqa-index",
            ),
        ),
        "index search": Command(
            "the items nearest to an image or a text",
            settings="comem.retrieval.settings:QuerySettings",
            run="comem.retrieval.query:search_index",
            show="comem.retrieval.commands:show_hits",
            examples=("comem index search --index data/toy/index --image data/toy/images/T00001_1.png",),
        ),
        "index evaluate": Command(
            "recall: of images, of an index, or of known items",
            settings="comem.retrieval.settings:RecallSettings",
            run="comem.retrieval.evaluate:evaluate_retrieval",
            show="comem.retrieval.commands:show_recall",
            examples=("comem index evaluate --images data/toy/images --embedder toy --baseline",),
        ),
        "index push": Command(
            "the vectors to Milvus, which then searches in place of FAISS",
            settings="comem.retrieval.settings:PushSettings",
            run="comem.retrieval.commands:push",
            show="comem.retrieval.commands:show_push",
            examples=("comem index push --index data/toy/index --uri milvus.db --embedder toy",),
        ),
        "index verify": Command(
            "compare every checksum; exit code 1 for damage",
            settings="comem.retrieval.settings:VerifySettings",
            run="comem.retrieval.commands:verify",
            show="comem.retrieval.commands:show_verify",
            examples=("comem index verify data/toy/index",),
        ),
        "retrieve": Command(
            "find knowledge items for the images of questions",
            settings="comem.retrieval.settings:RetrieveSettings",
            run="comem.retrieval.retriever:retrieve",
            show="comem.retrieval.commands:show_retrieved",
            examples=(
                "comem retrieve --index data/toy/index --questions data/toy/test.jsonl -k 3 \\",
                "    --output runs/retrieved.jsonl",
            ),
        ),
        "data": Command(
            "check, convert and synthesise training data",
            examples=(
                "comem data check data/toy/train.jsonl --model toy --html runs/samples.html",
                "comem data build configs/data/toy.yaml --output runs/data",
            ),
        ),
        "data check": Command(
            "every fault, counts, lengths, samples; exit code 1 for faults",
            settings="comem.data.check:CheckSettings",
            run="comem.data.check:check",
            show="comem.data.check:show_check",
            examples=(
                "comem data check data/toy/train.jsonl --knowledge data/toy/wit.tsv.gz --model toy \\",
                "    --html runs/samples.html",
            ),
        ),
        "data convert": Command(
            "LLaVA-style JSON or an MDS folder to our JSONL",
            settings="comem.data.convert:ConvertSettings",
            run="comem.data.convert:convert",
            show="comem.data.convert:show_converted",
            examples=(
                "comem data convert llava.json --images coco --output train.jsonl",
                "comem data convert authors_mds --output train.jsonl",
            ),
        ),
        "data synthesise": Command(
            "a model's own right answers by plain RAG",
            settings="comem.data.synthesis:SynthesiseSettings",
            run="comem.data.synthesis:synthesise",
            show="comem.data.synthesis:show_synthesised",
            examples=(
                "comem data synthesise --benchmark toy --data data/toy/train.jsonl -k 3 \\",
                "    --index data/toy/index --candidates 200 --output runs/synthesis",
            ),
        ),
        "data translate": Command(
            "a sample of the records in other languages",
            settings="comem.data.translate:TranslateSettings",
            run="comem.data.translate:translate",
            plan="comem.data.translate:requests",
            show="comem.data.translate:show_translated",
            extra="comem.config:DryRun",
            examples=(
                "comem data translate runs/synthesis/train.jsonl --endpoint https://api.openai.com/v1 \\",
                "    --model gpt-4o-mini --api-key-env OPENAI_API_KEY --output runs/translation",
                "comem data translate train.jsonl --endpoint http://localhost:8000/v1 --model Qwen2.5-7B \\",
                "    --languages fr ja --samples 50 --output runs/translation",
                "comem data translate train.jsonl --model qwen2_5_vl_7b --output runs/translation   # local",
            ),
        ),
        "data mix": Command(
            "several files as one, so many records of each",
            settings="comem.data.mix:MixSettings",
            run="comem.data.mix:mix",
            show="comem.data.mix:show_mixture",
            examples=("comem data mix infoseek=a/train.jsonl:5700 okvqa=b/train.jsonl --output runs/data",),
        ),
        "data build": Command(
            "a whole training set from a plan (configs/data/)",
            settings="comem.data.build:DataPlan",
            run="comem.data.build:build",
            plan="comem.data.build:build_plan",
            show="comem.data.build:show_built",
            extra="comem.config:DryRun",
            examples=(
                "comem data build configs/data/toy.yaml --output runs/data",
                "comem data build paper --output runs/data --dry-run",
                "comem data build paper index=my-index sources.okvqa.target=3000 --output runs/data",
            ),
            recipes="data",
        ),
        "train": Command(
            "train the memory encoder (LoRA and Q-Former)",
            settings="comem.training.settings:TrainSettings",
            run="comem.training.run:train",
            plan="comem.training.plan:make_plan",
            show="comem.training.plan:show_train",
            extra="comem.training.settings:PlanOptions",
            examples=(
                "comem train --config toy data=data/toy-dialogues/dialogues.jsonl output=runs/toy",
                "comem train --config paper data=train.jsonl micro_batch_size=1 --dry-run",
                "comem train --config paper --data train.jsonl --optim.lr 1e-4 --lora.rank 32",
            ),
            recipes="train",
        ),
        "merge": Command(
            "fold LoRA into a self-contained encoder",
            settings="comem.training.settings:MergeSettings",
            run="comem.training.merge:merge",
            plan="comem.training.merge:merge_plan",
            show="comem.training.merge:show_merge",
            extra="comem.config:DryRun",
            examples=(
                "comem merge runs/toy models/toy-encoder",
                "comem merge runs/7b models/7b-adapter --adapter",
            ),
        ),
        "convert": Command(
            "the authors' checkpoints: what is in one, and our encoder folder of it",
            settings="comem.compat.commands:ConvertCheckpointSettings",
            run="comem.compat.convert:convert",
            show="comem.compat.convert:show_converted",
            examples=(
                "comem convert continuous-memory-qwen2.5-vl      # shows what is in it",
                "comem convert continuous-memory-qwen2.5-vl models/encoder --base qwen2_5_vl_7b \\",
                "    --reader models/reader",
                "comem convert checkpoint-800 models/adapter --base Qwen/Qwen2.5-VL-7B-Instruct",
            ),
        ),
        "bank": Command(
            "memories on disk: build, info, verify, export, merge",
            examples=(
                "comem bank build --encoder toy --index data/toy/index --output data/toy/bank",
                "comem bank build --encoder toy --corpus ../shared/data/flags/wit_flags.tsv.gz \\",
                "    --embedder toy --index runs/flags/index --output runs/flags/bank",
                "comem bank info runs/flags/bank",
                "comem bank verify runs/flags/bank --drop-damaged",
                "comem bank export runs/flags/bank --form prq --output runs/flags/bank-small",
                "comem bank merge part-0 part-1 --output whole",
            ),
        ),
        "bank build": Command(
            "encode items into a bank; run again, it goes on",
            settings="comem.bank.settings:EncodeSettings",
            run="comem.bank.build:encode",
            show="comem.bank.show:show_encoded",
            examples=(
                "comem bank build --encoder toy --index data/toy/index --output data/toy/bank",
                "comem bank build --encoder toy --corpus wit.tsv.gz --embedder toy --index runs/index \\",
                "    --output runs/bank        # corpus to index and bank in one go",
            ),
        ),
        "bank info": Command(
            "what lies in a bank",
            settings="comem.bank.settings:BankSettings",
            run="comem.bank.upkeep:info",
            show="comem.bank.show:show_info",
            examples=("comem bank info runs/flags/bank",),
        ),
        "bank verify": Command(
            "compare every checksum; exit code 1 for damage",
            settings="comem.bank.settings:VerifySettings",
            run="comem.bank.upkeep:verify",
            show="comem.bank.show:show_report",
            examples=("comem bank verify runs/flags/bank --drop-damaged",),
        ),
        "bank export": Command(
            "another form, some items, or one .safetensors file",
            settings="comem.bank.settings:ExportSettings",
            run="comem.bank.upkeep:export",
            show="comem.bank.show:show_info",
            examples=("comem bank export runs/flags/bank --form prq --output runs/flags/bank-small",),
        ),
        "bank merge": Command(
            "several banks of one encoder into one",
            settings="comem.bank.settings:MergeSettings",
            run="comem.bank.upkeep:merge",
            show="comem.bank.show:show_info",
            examples=("comem bank merge part-0 part-1 --output whole",),
        ),
        "encode": Command(
            "encode knowledge items into a memory bank",
            settings="comem.bank.settings:EncodeSettings",
            run="comem.bank.build:encode",
            show="comem.bank.show:show_encoded",
            examples=(
                "comem encode --encoder toy --index runs/index --output runs/bank.safetensors",
                "comem encode --encoder models/7b-encoder --items wit.tsv.gz --output bank.safetensors \\",
                "    --batch-size 4",
            ),
        ),
        "ask": Command(
            "ask a folder of images and texts a question",
            settings="comem.store.commands:OneQuestionSettings",
            run="comem.store.commands:ask",
            show="comem.store.commands:show_answer",
            examples=(
                'comem ask trip "When was this built?" --image photo.jpg',
                'comem ask trip "Where was it cold?" --mode rag -k 5 --update',
            ),
        ),
        "chat": Command(
            "talk with a memory; add to it, see what was used",
            settings="comem.store.commands:ChatSettings",
            run="comem.store.commands:chat",
            examples=("comem chat trip",),
        ),
        "serve": Command(
            "a memory over HTTP, for OpenAI's clients, mem0's and people",
            settings="comem.serve.settings:ServeSettings",
            run="comem.serve.run:serve",
            examples=(
                "comem serve trip --ui",
                "COMEM_API_KEY=… comem serve trip --host 0.0.0.0 --port 80",
                "comem serve trip --host 0.0.0.0 --keys keys.txt      # lines of a key and a user",
            ),
        ),
        "ui": Command(
            "a page for a memory: drop in a folder, ask, see what was used, delete",
            settings="comem.serve.settings:PageSettings",
            run="comem.serve.run:serve",
            examples=("comem ui trip",),
        ),
        "mcp": Command(
            "a memory as tools of an agent (Model Context Protocol)",
            settings="comem.serve.settings:McpSettings",
            run="comem.serve.mcp:serve",
            examples=("comem mcp trip", "comem mcp trip --user-id ann"),
        ),
        "predict": Command(
            "answer questions: baseline, rag or comem",
            settings="comem.eval.predict:PredictSettings",
            run="comem.eval.predict:predict",
            show="comem.eval.predict:show_predicted",
            examples=(
                "comem predict --benchmark toy --data data/toy --split test --mode baseline \\",
                "    --output runs/baseline",
                "comem predict --benchmark toy --data data/toy --split test --mode comem --encoder toy \\",
                "    --index data/toy/index -k 3 --output runs/comem",
                "comem predict --benchmark infoseek --data infoseek_val.jsonl --images oven --mode comem \\",
                "    --model qwen2_5_vl_7b --encoder models/encoder --bank bank.safetensors \\",
                "    --index wit-index --contexts retrieved.jsonl --output runs/infoseek",
                "comem predict --benchmark flags --data ../shared/data/flags \\",
                "    --mode rag comem vlm_as_memory \\",
                "    --index runs/flags/index --bank runs/flags/bank --output runs/flags/answers",
                "accelerate launch --multi_gpu --num_processes 4 -m comem predict … --output runs/infoseek",
                "comem predict … --output runs/infoseek --shard 1/4        # the others elsewhere",
                "comem predict … --output runs/infoseek --merge            # what there is by now",
            ),
        ),
        "evaluate": Command(
            "score predictions by the benchmark's official definition, or as the paper's code did",
            settings="comem.eval.score:EvaluateSettings",
            run="comem.eval.score:evaluate",
            show="comem.eval.score:show_evaluation",
            examples=(
                "comem evaluate infoseek --predictions answers.jsonl --references infoseek_val.jsonl",
                "comem evaluate viquae --predictions a.jsonl --references test.jsonl --compare b.jsonl",
                "comem evaluate okvqa --predictions a.json --references val.json --scorer paper",
                "comem evaluate toy --predictions runs/rag/predictions.jsonl \\",
                "    --references data/toy/test.jsonl --output report.json",
            ),
        ),
        "oven": Command(
            "link answers to Wikidata ids, as OVEN's score needs",
            examples=(
                "comem oven index --titles Wiki6M_ver_1_0_title_only.jsonl --output data/wiki6m",
                "comem oven link --index data/wiki6m --predictions runs/query/predictions.jsonl \\",
                "    --output runs/query/linked.jsonl",
                "comem evaluate oven --predictions-query runs/query/linked.jsonl \\",
                "    --references-query query.jsonl --predictions-entity runs/entity/linked.jsonl \\",
                "    --references-entity entity.jsonl",
            ),
        ),
        "oven index": Command(
            "index Wikipedia's titles for BM25",
            settings="comem.linking.commands:TitleIndexSettings",
            run="comem.linking.commands:index_titles",
            show="comem.linking.commands:show_index",
            examples=(
                "comem oven index --titles Wiki6M_ver_1_0.jsonl.gz --output data/wiki6m-bert \\",
                "    --tokenizer bert --vocabulary vocab.txt",
            ),
        ),
        "oven link": Command(
            "add the entity that each answer names to a file of predictions",
            settings="comem.linking.commands:LinkFileSettings",
            run="comem.linking.commands:link",
            show="comem.linking.commands:show_links",
            examples=(
                "comem oven link --index data/wiki6m-bert --predictions runs/query/predictions.jsonl \\",
                "    --output runs/query/linked.jsonl",
            ),
        ),
        "report": Command(
            "runs beside the paper's numbers: HTML page and figure",
            settings="comem.eval.report:ReportSettings",
            run="comem.eval.report:report",
            show="comem.eval.report:show_report",
            examples=(
                "comem report runs/infoseek-baseline runs/infoseek-comem --output runs/report",
                "comem report runs --output runs/report",
                'comem report runs oven-comem.json --output runs/report --title "Qwen2.5-VL-7B"',
            ),
        ),
        "audit": Command(
            "is it memory? interventions on it, and probes of what it holds",
            settings="comem.eval.audit:AuditSettings",
            run="comem.eval.audit:audit",
            show="comem.eval.audit:show_audit",
            examples=(
                "comem audit --benchmark toy --data data/toy --split unseen_entity --index data/toy/index \\",
                "    --encoder toy --limit 200 --output runs/audit",
            ),
        ),
        "profile": Command(
            "what answering costs: seconds, memory, operations, by mode",
            settings="comem.profiling.commands:ProfileSettings",
            run="comem.profiling.commands:profile",
            show="comem.profiling.commands:show_profile",
            examples=(
                "comem profile --backbone tiny --k 0 3 --batch 1 2 --item-tokens 40 --question-tokens 30 \\",
                "    --image-tokens 16 --answer-tokens 8 --out runs/profile",
                "comem profile --backbone cpu --k 0 10 50 --batch 1 --out runs/profile-cpu",
                "comem profile --backbone qwen2_5_vl_7b --device cuda --out runs/profile-7b --resume",
            ),
        ),
        "configs": Command(
            "the recipes that come with the package: list them, copy one",
            settings="comem.recipes:ListSettings",
            run="comem.recipes:list_recipes",
            show="comem.recipes:show_recipes",
            examples=("comem configs", "comem configs --kind train", "comem configs copy train/paper mine"),
        ),
        "configs copy": Command(
            "copy a recipe, and those that it extends",
            settings="comem.recipes:CopySettings",
            run="comem.recipes:copy",
            show="comem.recipes:show_copies",
            examples=("comem configs copy train/paper mine", "comem configs copy accelerate/multi_gpu"),
        ),
        "verify": Command(
            "compare whatever was written with its checksums; exit code 1 for damage",
            settings="comem.verifying:VerifyAnySettings",
            run="comem.verifying:verify",
            show="comem.verifying:show",
            examples=("comem verify runs/7b runs/flags/bank data/toy/index",),
        ),
        "parity": Command(
            "compare our modules with recorded outputs of the authors'",
            settings="comem.compat.commands:ParitySettings",
            run="comem.compat.commands:parity",
            show="comem.compat.commands:show_parity",
            examples=(
                "comem parity golden/qwen2_5_vl golden/qwen2_vl",
                "comem parity golden/qwen2_vl --tolerance 1e-6",
            ),
        ),
    },
)
