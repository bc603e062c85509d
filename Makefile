# Every target first makes what it needs, once: a virtual environment in .venv and sample data in work/.
# Lines '##@ GROUP' and 'target:  ## text' are what `make help` prints.

VENV ?= .venv
WORK ?= work
BIN := $(VENV)/bin
GPU ?=
STAMP := $(VENV)/.installed$(if $(filter-out 0,$(GPU)),-gpu)
DIGITS := $(WORK)/digits
MODEL := $(WORK)/digits-model
LITE0 := $(WORK)/efficientnet-lite0
NATURAL := $(WORK)/natural
TUNED := $(WORK)/natural-model
SCRATCH := $(WORK)/natural-scratch
EXPORTS ?= $(MODEL)/export
CHECKED ?= $(DIGITS)/pictures/*.jpg
PICTURES ?= tests/golden/images/chelsea.jpg tests/golden/images/coffee.jpg
WEIGHTS ?=
NAMED := $(WORK)/$(if $(WEIGHTS),$(notdir $(firstword $(subst \#, ,$(WEIGHTS)))),mnasnet-a1)
TPU ?=
SECTIONS ?=

export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help train finetune classify finetune-curves demo table bench check-exports complexity tpu-check \
        tpu-check-all setup test test-slow lint format numbers clean

##@ make TARGET [WORK=folder for data and models] [VENV=folder of the environment]
help:  ## List the targets
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(VENV)/.installed: requirements.txt setup.py
	@sh utils/make_venv.sh "$(VENV)"
	@echo "Installing the packages of requirements.txt (about 2 GB on disk; one to five minutes)..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt || \
	  { echo "error: the packages of requirements.txt cannot be installed: is the network there?" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.installed-gpu: $(VENV)/.installed requirements-gpu.txt
	@echo "Installing NVIDIA's libraries of requirements-gpu.txt (about 3 GB on disk)..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-gpu.txt || \
	  { echo "error: the packages of requirements-gpu.txt cannot be installed: is the network there?" >&2; exit 1; }
	@touch $@

##@ First steps

$(DIGITS)/dataset_info.json: $(STAMP)
	@$(BIN)/python -m utils.data sample --output_dir=$(DIGITS)

train: $(STAMP) $(DIGITS)/dataset_info.json  ## Train on the bundled digits, evaluate, export, classify
	$(BIN)/python mnasnet_main.py --config_file=sample --data_dir=$(DIGITS) --model_dir=$(MODEL) \
	  --export_dir=$(MODEL)/export --post_quantize=True --quantize=float16,int8 --report
	$(BIN)/python -m utils.classify --model=$(MODEL)/export/mnasnet-small.tflite $(DIGITS)/pictures/*.jpg
	@echo "Open the report in a browser: $(MODEL)/report/report.html"

$(LITE0)/checkpoint: | $(STAMP)
	@$(BIN)/python -m utils.pretrained --model_dir=$(LITE0)

$(NATURAL)/dataset_info.json: | $(STAMP)
	@$(BIN)/python -m utils.data natural --output_dir=$(NATURAL)

finetune: $(LITE0)/checkpoint $(NATURAL)/dataset_info.json  ## Fine-tune ImageNet weights on eleven other classes
	$(BIN)/python mnasnet_main.py --config_file=finetune --init_checkpoint=$(LITE0) --data_dir=$(NATURAL) \
	  --model_dir=$(TUNED) --export_dir=$(TUNED)/export --post_quantize=True --quantize=float16,int8 --report
	$(BIN)/python -m utils.classify --model=$(TUNED)/export/efficientnet-lite0.tflite $(NATURAL)/pictures/*.jpg
	@echo "Open the report in a browser: $(TUNED)/report/report.html"

# With WEIGHTS those, else MnasNet-A1 of the hub or, where it cannot be fetched, EfficientNet-Lite0.
classify: $(STAMP)  ## Name what is on PICTURES="a.jpg b.jpg" (WEIGHTS=hf:...)
	@set -e; dir=$(NAMED); if [ ! -e $$dir/checkpoint ]; then \
	  if [ "$(WEIGHTS)" ]; then \
	    $(BIN)/python -m utils.import_weights --weights="$(WEIGHTS)" --model_dir=$$dir; \
	  else $(BIN)/python -m utils.pretrained --mnasnet_dir=$$dir --model_dir=$(LITE0); fi; fi; \
	if [ ! -e $$dir/checkpoint ]; then dir=$(LITE0); fi; \
	if [ ! -e $$dir/export/export_report.json ]; then \
	  $(BIN)/python mnasnet_main.py --mode=export_only --model_dir=$$dir --export_dir=$$dir/export; fi; \
	$(BIN)/python -m utils.classify --model=$$dir/export $(PICTURES)

finetune-curves: finetune  ## Train from weights and from scratch, and plot both
	$(BIN)/python mnasnet_main.py --config_file=finetune --model_spec=g3doc/data/efficientnet-lite0.yaml \
	  --freeze_until=none --base_learning_rate=0.064 --warmup_epochs=1 --batch_norm_momentum=0.9 \
	  --train_steps=120 --steps_per_eval=20 --data_dir=$(NATURAL) --model_dir=$(SCRATCH)
	$(BIN)/python g3doc/plots.py $(TUNED) $(SCRATCH)

# The model of `make finetune` if it is there, else the one of `make train`.
SHOWN := $(firstword $(wildcard $(TUNED)/export/efficientnet-lite0.tflite) $(MODEL)/export/mnasnet-small.tflite)
SHOWN_DATA := $(if $(findstring $(TUNED),$(SHOWN)),$(NATURAL),$(DIGITS))

$(MODEL)/export/mnasnet-small.tflite: | $(STAMP)
	@$(MAKE) --no-print-directory train

demo: $(SHOWN)  ## Serve a web page with the model of finetune or train
	@$(BIN)/python -m utils.demo_page --model=$< --output_dir=$(WORK)/demo --serve $(SHOWN_DATA)/pictures/*.jpg

table: $(STAMP) $(DIGITS)/dataset_info.json  ## Train a1, b1 and small on the digits; compare exports
	@for m in a1 b1 small; do $(BIN)/python mnasnet_main.py --config_file=sample --model_name=mnasnet-$$m \
	  --data_dir=$(DIGITS) --model_dir=$(WORK)/table/$$m --export_dir=$(WORK)/table/$$m/export \
	  --post_quantize=True --quantize=float16,int8 || exit 1; done
	@$(BIN)/python -m utils.export_table --max_loss=1 $(WORK)/table/a1/export $(WORK)/table/b1/export $(WORK)/table/small/export

##@ Measure and check

bench: $(STAMP)  ## Measure speed and memory (SECTIONS="step input")
	$(BIN)/python -m bench $(SECTIONS)

$(MODEL)/export/export_report.json:
	@$(MAKE) train

check-exports: $(STAMP) $(EXPORTS:%=%/export_report.json)  ## Run exports in LiteRT and MediaPipe (EXPORTS="a b")
	$(BIN)/python -m utils.check_exports $(EXPORTS) --pictures $(CHECKED)

complexity: $(STAMP)  ## Print parameters, multiply-adds and memory of networks
	$(BIN)/python -m utils.complexity --model_name=mnasnet-a1,mnasnet-b1,mnasnet-small,mnasnet-d1,mnasnet-d1-320

tpu-check: $(STAMP)  ## Compile the training step for a TPU (TPU=--topology=v2)
	$(BIN)/python -m utils.tpu_check $(TPU)

tpu-check-all: $(STAMP)  ## Compile a1 and b1 in both precisions (half an hour)
	$(BIN)/python -m utils.tpu_check --model_name=mnasnet-a1,mnasnet-b1 --precision=float32,bfloat16

##@ Develop

setup: $(STAMP)  ## Install everything into .venv (GPU=1: for GPUs)

test: $(STAMP)  ## Run all tests but the slow ones
	$(BIN)/python -m pytest

test-slow: $(STAMP)  ## Run the slow tests alone
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

numbers: $(STAMP)  ## Write g3doc/numbers.md and its picture
	$(BIN)/python -m g3doc.write_numbers
	$(BIN)/python g3doc/plots.py

clean:  ## Remove what was built, but not the models in work/
	rm -rf build dist *.egg-info .ruff_cache .mypy_cache $(VENV) $(VENV)-uv .venv-tpu .venv-exports
