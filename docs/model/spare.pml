/*
 * Three nodes and one record: who may speak when a third node can take the place of either of a pair.
 *
 * pair.pml has the steps of a checkpoint, the messages and the data paths of two nodes. Here those are left out, and in
 * return nothing is bounded but the number of nodes: any number of faults, generations, synchronisations and writes that
 * are late. README.md beside this file says how that can be finite, what is left out, and what was found. After
 * coordinator/pair: the names of its functions stand beside the steps.
 *
 * The deliberate mistakes, each of which has to be found:
 *
 *   BAD_DOUBT     a record that is read and names this node alone counts as won, although a write of its own may be late
 *   BAD_START     the same for a colod that starts
 *   BAD_EARLY     the record names the standby before that has a whole copy
 *   BAD_ANYCOPY   a secondary that lost its speaker claims whatever the record says
 *   BAD_ADOPT     the same for a VM that a starting colod finds
 *   BAD_AGREE     the word of a secondary counts that was let go
 *   BAD_LETGO     a secondary is let go, and the guest heard alone, before the outcome of the write is known
 *   BAD_FORGET    a speaker whose write failed without an outcome gives up the synchronisation without winning the record
 */

#define N 3
#define NOBODY 3

mtype = {
	off,      /* colod does not run, and nothing of a guest here is heard */
	unled,    /* colod does not run; the kernel lets out what the guest says alone */
	idle,     /* Idle, Standby: no VM, or one that is being ended */
	alone,    /* Solo */
	copying,  /* Syncing as speaker, up to the arming checkpoint; the guest is still heard alone */
	armed,    /* Syncing as speaker, the record is being written */
	guarded,  /* Protected as speaker */
	letting,  /* the same, and the record is being written without the secondary: planLetGo, quitSwap */
	second,   /* Syncing as secondary */
	follows,  /* Protected as secondary */
	claiming  /* Claiming */
};

/* The record. Its generation is not there as a number: every write that is applied makes what every node knows old. */
byte sp = 0, sb = NOBODY;

mtype st[N];
byte with[N];	/* the other node of the session */
bool vm[N];
bool fit[N];	/* the VM has lived through all that clients have been told */
bool fresh[N];	/* what the node knows of the record is of the present generation */
bool doubt[N];	/* type doubt: a write of this node for the generation that it knows may still be on its way */
byte late[N];	/* the writes of this node for the present generation that the arbiter may still take: bit s names s as standby */

inline forget(i) { with[i] = NOBODY }

/* The record is read, or comes as the answer to a write. Reads are linearizable. */
inline look(i) {
	if
	:: !fresh[i] -> doubt[i] = false; fresh[i] = true
	:: else
	fi
}

/* A write for the generation that the node knows: of an old one the arbiter refuses it. */
inline write(i, standby) {
	if
	:: fresh[i] -> late[i] = late[i] | (1 << (standby))
	:: else
	fi;
	doubt[i] = true
}

/* The arbiter takes a write, whenever it was made: all others of that generation are void from now on. */
inline take(i, standby) {
	sp = i; sb = standby;
	late[0] = 0; late[1] = 0; late[2] = 0;
	fresh[0] = false; fresh[1] = false; fresh[2] = false
}

/* A guest is started anew: a new history begins, and no VM that is left of the old one may be heard. */
inline launch(i) {
	fit[0] = false; fit[1] = false; fit[2] = false;
	vm[i] = true; fit[i] = true
}

/* toPromoting: the node is heard alone from now on. */
inline speak(i) {
	forget(i);
	st[i] = alone;
	if
	:: vm[i] -> assert(fit[i])	/* nothing that a client was told is lost */
	:: else -> launch(i)
	fi
}

inline end(i) { vm[i] = false; fit[i] = false; forget(i) }
inline fence(i) { end(i); st[i] = idle }
inline claim(i) { forget(i); st[i] = claiming; write(i, NOBODY) }

/* The guest says something that nobody but i stands for. */
inline said(i) {
	assert(sp == i && sb == NOBODY);
	assert(fit[i]);
	fit[0] = false; fit[1] = false; fit[2] = false;
	fit[i] = true
}

#define HELD(i)    (st[i] == armed || st[i] == guarded || st[i] == letting)
#define TAKER(j)   (st[j] == second || st[j] == follows)
#ifdef BAD_AGREE
#define AGREE(i,j) (TAKER(j) && vm[j] && with[j] == i)
#else
#define AGREE(i,j) (TAKER(j) && vm[j] && with[j] == i && with[i] == j)
#endif
#ifdef BAD_DOUBT
#define SURE(i)    (true)
#else
#define SURE(i)    (!doubt[i])
#endif

/* What node i does with node j; k is the third one. */
inline step(i, j, k) {
	if
	/* The guest is heard alone; and with the other's agreement, which both have lived through. */
	:: (st[i] == alone || st[i] == copying || st[i] == unled) && vm[i] -> said(i)
	:: HELD(i) && vm[i] && AGREE(i, j) ->
		assert(fit[i]);
		fit[k] = false

	/* A synchronisation with a node that has nothing: toSyncing, prepare. */
	:: st[i] == alone && vm[i] && st[j] == idle && !vm[j] ->
		st[i] = copying; with[i] = j;
		look(j); st[j] = second; with[j] = i; vm[j] = true; fit[j] = false;
#ifdef BAD_EARLY
		look(i); write(i, j)
#endif
	:: st[i] == copying && with[i] == j && st[j] == second && with[j] == i && vm[j] ->
		fit[j] = fit[i]; st[i] = armed;
#ifndef BAD_EARLY
		look(i); write(i, j)
#endif
	/* syncFailed before the record is written */
	:: st[i] == copying && with[i] == j -> forget(i); st[i] = alone

	/* The record is written: recorded, recordReread. */
	:: st[i] == armed && with[i] == j ->
		look(i);
		if
		:: sp == i && sb == j -> st[i] = guarded
		:: sp == i && sb != j -> write(i, j)	/* the outcome is unknown: once more */
		:: sp != i -> fence(i)
		fi
#ifdef BAD_FORGET
	:: st[i] == armed && with[i] == j && sp == i && sb == NOBODY -> look(i); doubt[i] = false; speak(i)
#endif
	/* The secondary is told: Armed. */
	:: (st[i] == guarded || st[i] == letting) && with[i] == j && st[j] == second && with[j] == i && fresh[i] && sp == i && sb == j ->
		st[j] = follows; look(j)
	:: st[i] == guarded && with[i] == j ->
		look(i);	/* protectedRecord */
		if
		:: sp == i && sb == j
		:: sp == i && sb != j -> claim(i)
		:: sp != i -> fence(i)
		fi

	/* The secondary is let go, as a third node is to take its place or colod is to end; until that is written all stays. */
	:: st[i] == guarded && with[i] == j -> st[i] = letting; write(i, NOBODY)
#ifdef BAD_LETGO
	:: st[i] == letting && with[i] == j -> look(i); speak(i)
#endif
	:: st[i] == letting && with[i] == j ->
		look(i);	/* planSwapped, quitSwapped */
		if
		:: sp == i && sb == NOBODY && SURE(i) -> speak(i)
		:: sp == i && sb == NOBODY && !SURE(i) -> write(i, NOBODY)
		:: sp == i && sb == j -> write(i, NOBODY)	/* the outcome is unknown: once more */
		:: sp == i && sb == j -> st[i] = guarded	/* the plan is given up */
		:: sp == i && sb == k -> claim(i)
		:: sp != i -> fence(i)
		fi

	/* Somebody believes to have lost the other one, or gives it up. */
	:: HELD(i) && with[i] == j -> claim(i)
	:: st[i] == follows && with[i] == j -> claim(i)
	:: st[i] == second && with[i] == j ->	/* secondaryAlone, secondaryRecord */
		look(i);
#ifdef BAD_ANYCOPY
		claim(i)
#else
		if
		:: sb == i -> claim(i)
		:: sb != i -> fence(i)	/* it may be no whole copy */
		fi
#endif
	/* The secondary looks by itself. */
	:: st[i] == follows && with[i] == j ->
		look(i);
		if
		:: sp == j && sb == i
		:: !(sp == j && sb == i) -> fence(i)
		fi

	/* claimAgain */
	:: st[i] == claiming ->
		look(i);
		if
		:: sp == i && sb == NOBODY && SURE(i) -> speak(i)
		:: sp == i && sb == NOBODY && !SURE(i) -> write(i, NOBODY)
		:: sp == i && sb != NOBODY || sb == i -> write(i, NOBODY)
		:: sp != i && sb != i -> fence(i)
		fi

	/* The record names a node that has nothing: it waits for the other one, or starts the guest anew. */
	:: st[i] == idle && sp == i -> look(i); claim(i)

	/* A colod starts: by the record, and by what runs there. All that a former one wrote may be late. */
	:: st[i] == off || st[i] == unled ->
		look(i); doubt[i] = true;
		if
#ifdef BAD_START
		:: sp == i && sb == NOBODY -> speak(i)
#endif
#ifdef BAD_ADOPT
		:: vm[i] -> claim(i)
#endif
		:: sp == i || (sb == i && vm[i]) -> claim(i)
		:: sp != i -> fence(i)	/* also a secondary whose speaker says that it has the guest */
		fi

	/* The arbiter takes a write. */
	:: late[i] & (1 << j) -> take(i, j)
	:: late[i] & (1 << NOBODY) -> take(i, NOBODY)

	/* A VM dies. */
	:: vm[i] ->
		if
		:: st[i] == alone || st[i] == copying -> forget(i); st[i] = alone; launch(i)	/* guestLost */
		:: HELD(i) || TAKER(i) -> fence(i)	/* handOver; toStandby */
		:: st[i] == claiming || st[i] == idle -> end(i)
		:: st[i] == off || st[i] == unled -> end(i); st[i] = off
		fi
	/* A colod dies; so does a host, if its VM does then. */
	:: st[i] != off && st[i] != unled ->
		forget(i); fresh[i] = false; doubt[i] = false;
		if
		:: st[i] == alone -> st[i] = unled
		:: st[i] != alone -> st[i] = off
		fi
	:: else
	fi
}

init {
	byte i, j, k;
	atomic {
		st[0] = alone; st[1] = idle; st[2] = idle;
		vm[0] = true; fit[0] = true;
		fresh[0] = true; fresh[1] = true; fresh[2] = true;
		with[0] = NOBODY; with[1] = NOBODY; with[2] = NOBODY
	}
	do
	:: atomic {
		if :: i = 0 :: i = 1 :: i = 2 fi;
		if :: j = (i + 1) % N :: j = (i + 2) % N fi;
		k = N - i - j;
		step(i, j, k);
		i = 0; j = 0; k = 0 }
	od
}
