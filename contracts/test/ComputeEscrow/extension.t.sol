// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC5267} from "@openzeppelin/contracts/interfaces/IERC5267.sol";

import {
    Ask,
    Bid,
    IComputeEscrow,
    IEscrowBase,
    IEscrowCore,
    IEscrowExtension,
    Numbered,
    Relay,
    Terms
} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {newEscrow} from "../support/Shipped.sol";
import {PlainToken} from "../support/Tokens.sol";
import {TypedData} from "../support/TypedData.sol";

/// @notice Answers every call with its selector, in the extension's place.
contract Echo {
    fallback(bytes calldata) external returns (bytes memory) {
        return abi.encode("echo", msg.sig);
    }
}

/// @notice Runs another contract's code as its own.
contract Borrower {
    function run(address code, bytes calldata data) external returns (bool ok, bytes memory answer) {
        return code.delegatecall(data);
    }
}

/// @notice What the escrow answers itself, what its extension answers for it, and nothing else.
contract ExtensionTest is EscrowTest {
    address private _extension;

    function setUp() public override {
        super.setUp();
        _extension = escrow.extension();
    }

    /* WHO ANSWERS WHAT */

    function _coreSelectors() private pure returns (bytes4[19] memory) {
        return [
            IEscrowCore.deposit.selector,
            IEscrowCore.withdraw.selector,
            IEscrowCore.open.selector,
            IEscrowCore.openAll.selector,
            IEscrowCore.openBatch.selector,
            IEscrowCore.settle.selector,
            IEscrowCore.depositWithPermit.selector,
            IEscrowCore.stop.selector,
            IEscrowCore.stopBySignature.selector,
            IEscrowCore.free.selector,
            IEscrowCore.close.selector,
            IEscrowCore.refund.selector,
            IEscrowCore.balanceOf.selector,
            IEscrowCore.domainSeparator.selector,
            IEscrowCore.token.selector,
            IEscrowCore.feeBps.selector,
            IEscrowCore.feeRecipient.selector,
            IEscrowCore.settleWindow.selector,
            IEscrowCore.extension.selector
        ];
    }

    function _viewSelectors() private pure returns (bytes4[16] memory) {
        return [
            IEscrowExtension.feesOf.selector,
            IEscrowExtension.capacityUsed.selector,
            IEscrowExtension.lease.selector,
            IEscrowExtension.counted.selector,
            IEscrowExtension.purse.selector,
            IEscrowExtension.purseOf.selector,
            IEscrowExtension.saltState.selector,
            IEscrowExtension.saltsFrom.selector,
            IEscrowExtension.terms.selector,
            IEscrowExtension.bidRecord.selector,
            IEscrowExtension.hashAsk.selector,
            IEscrowExtension.hashBid.selector,
            IEscrowExtension.hashQuote.selector,
            IEscrowExtension.hashPrices.selector,
            IEscrowExtension.leaseNoOf.selector,
            IEscrowExtension.cost.selector
        ];
    }

    /// @dev A call of every function of the extension that writes.
    function _writes() private view returns (bytes[14] memory) {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        bytes32 zero;
        Relay memory relay;
        return [
            abi.encodeCall(escrow.depositFor, (buyer, 1)),
            abi.encodeCall(escrow.settleMetered, ("")),
            abi.encodeCall(escrow.depositWithAuthorization, (buyer, 1, 0, 1, zero, 27, zero, zero)),
            abi.encodeCall(escrow.depositWithPermit2, (buyer, 1, 0, 1, "")),
            abi.encodeCall(escrow.withdrawBySignature, (buyer, buyer, 1, relay, "")),
            abi.encodeCall(escrow.collectFees, (new address[](0))),
            abi.encodeCall(escrow.multicall, (new bytes[](0))),
            abi.encodeCall(escrow.createPurse, (stranger, 1, type(uint40).max, 0)),
            abi.encodeCall(escrow.fundPurse, (stranger, 1)),
            abi.encodeCall(escrow.sweepPurse, (stranger, 1)),
            abi.encodeCall(escrow.expirePurse, (stranger, 1)),
            abi.encodeCall(escrow.cancel, (buyer, Numbered.Orders, 1, false, "")),
            abi.encodeCall(escrow.topUp, (ask, bid, zero, 0, 60)),
            abi.encodeCall(escrow.topUpBySignature, (ask, bid, zero, 0, 60, relay, ""))
        ];
    }

    /// @dev An interface's id is all of its selectors, each flipped in once: none is missing from the lists here.
    function test_every_function_is_listed() public view {
        bytes4 core;
        bytes4[19] memory coreSelectors = _coreSelectors();
        for (uint256 i = 0; i < 19; i++) {
            core ^= coreSelectors[i];
        }
        assertEq(core, type(IEscrowCore).interfaceId);

        bytes4 extension;
        bytes4[16] memory viewSelectors = _viewSelectors();
        for (uint256 i = 0; i < 16; i++) {
            extension ^= viewSelectors[i];
        }
        bytes[14] memory writes = _writes();
        for (uint256 i = 0; i < 14; i++) {
            extension ^= bytes4(writes[i]);
        }
        assertEq(extension, type(IEscrowExtension).interfaceId);
    }

    /// @dev With an echo in the extension's place, what the escrow answers itself does not echo.
    function test_escrow_answers_all_of_the_core_itself() public {
        vm.etch(_extension, address(new Echo()).code);
        bytes4[19] memory selectors = _coreSelectors();
        for (uint256 i = 0; i < 19; i++) {
            (, bytes memory answer) = address(escrow).call(abi.encodeWithSelector(selectors[i]));
            assertNotEq(answer, abi.encode("echo", selectors[i]));
        }
        (, bytes memory domain) = address(escrow).call(abi.encodeCall(IERC5267.eip712Domain, ()));
        assertNotEq(domain, abi.encode("echo", IERC5267.eip712Domain.selector));
    }

    function _assertEchoes(bytes4 selector) private {
        (bool ok, bytes memory answer) = address(escrow).call(abi.encodeWithSelector(selector));
        assertTrue(ok);
        assertEq(answer, abi.encode("echo", selector));
    }

    function test_extension_alone_answers_the_rest() public {
        bytes memory code = _extension.code;
        vm.etch(_extension, address(new Echo()).code);
        bytes4[16] memory views = _viewSelectors();
        for (uint256 i = 0; i < 16; i++) {
            _assertEchoes(views[i]);
        }
        bytes[14] memory writes = _writes();
        for (uint256 i = 0; i < 14; i++) {
            _assertEchoes(bytes4(writes[i]));
        }
        vm.etch(_extension, code);
        assertEq(escrow.saltsFrom(buyer, Numbered.Orders), 0);
    }

    function test_errors_and_answers_come_through_whole() public {
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.InvalidSignature.selector, buyer));
        escrow.cancel(buyer, Numbered.Orders, 1, false, "");
        (Ask memory ask,) = _lastingOrders();
        assertEq(escrow.hashAsk(ask), TypedData.hash(ask));
        assertEq(escrow.lease(_key(bytes16(0))).locked, 0);
    }

    function test_sender_is_who_called_the_escrow() public {
        vm.prank(buyer);
        escrow.cancel(buyer, Numbered.Orders, 1, false, "");
        (, bool cancelled) = escrow.saltState(buyer, Numbered.Orders, 1);
        assertTrue(cancelled);
        (, cancelled) = IComputeEscrow(_extension).saltState(buyer, Numbered.Orders, 1);
        assertFalse(cancelled, "the extension's own storage stays empty");
    }

    /* THE EXTENSION ALONE */

    function test_extension_refuses_to_write_at_its_own_address() public {
        bytes memory refusal = abi.encodeWithSelector(IEscrowBase.NotTheEscrow.selector, _extension);
        address[4] memory senders = [buyer, provider, stranger, address(escrow)];
        bytes[14] memory writes = _writes();
        for (uint256 i = 0; i < 14; i++) {
            for (uint256 j = 0; j < 4; j++) {
                vm.prank(senders[j]);
                (bool ok, bytes memory answer) = _extension.call(writes[i]);
                assertFalse(ok);
                assertEq(answer, refusal);
            }
        }
    }

    /// @dev Another contract that runs the code writes to storage of its own, and signatures for the escrow are not for it.
    function test_code_run_by_another_contract_does_nothing_to_the_escrow() public {
        Borrower borrower = new Borrower();
        vm.prank(buyer);
        (bool ok,) = borrower.run(_extension, abi.encodeCall(escrow.cancel, (buyer, Numbered.Orders, 1, true, "")));
        assertTrue(ok);
        assertEq(escrow.saltsFrom(buyer, Numbered.Orders), 0);
        bytes memory signature = _sign(buyerKey, TypedData.cancel(buyer, Numbered.Orders, 1, true));
        (ok,) = borrower.run(_extension, abi.encodeCall(escrow.cancel, (buyer, Numbered.Orders, 1, true, signature)));
        assertFalse(ok);
        Relay memory relay = Relay(1, type(uint40).max, address(0), 0);
        signature = _sign(buyerKey, TypedData.withdraw(buyer, stranger, 1, relay));
        bytes memory call = abi.encodeCall(escrow.withdrawBySignature, (buyer, stranger, 1, relay, signature));
        (ok,) = borrower.run(_extension, call);
        assertFalse(ok);
    }

    function test_extension_has_nothing_of_the_core() public {
        bytes4[19] memory selectors = _coreSelectors();
        for (uint256 i = 0; i < 19; i++) {
            (bool ok, bytes memory answer) = _extension.call(bytes.concat(selectors[i], new bytes(1024)));
            assertFalse(ok);
            assertEq(answer, "");
        }
    }

    /* NOTHING ELSE */

    function test_unknown_selectors_revert() public {
        bytes[4] memory calls = [bytes(hex"deadbeef"), hex"00000000", hex"de", ""];
        for (uint256 i = 0; i < 4; i++) {
            (bool ok, bytes memory answer) = address(escrow).call(calls[i]);
            assertFalse(ok);
            assertEq(answer, "");
            (ok,) = _extension.call(calls[i]);
            assertFalse(ok);
        }
    }

    function test_ether_is_refused() public {
        vm.deal(address(this), 1 ether);
        bytes[4] memory calls = [
            bytes(""), hex"deadbeef", abi.encodeCall(escrow.balanceOf, (buyer)), abi.encodeCall(escrow.feesOf, (buyer))
        ];
        for (uint256 i = 0; i < 4; i++) {
            (bool ok,) = address(escrow).call{value: 1}(calls[i]);
            assertFalse(ok);
            (ok,) = _extension.call{value: 1}(calls[i]);
            assertFalse(ok);
        }
        assertEq(address(escrow).balance + _extension.balance, 0);
    }

    /* ONE SET OF TERMS */

    /// @dev Both codes have immutables of their own: what one keeps, the other one holds to.
    function testFuzz_terms_are_the_same_in_both(uint16 feeBps, uint32 window, uint8 decimals) public {
        feeBps = uint16(bound(feeBps, 1, 1000));
        window = uint32(bound(window, 1 minutes, 30 days));
        PlainToken plain = new PlainToken(uint8(bound(decimals, 6, 18)));
        escrow = newEscrow(vm, Terms(address(plain), feeBps, feeRecipient, window));
        uint256 unit = 10 ** plain.decimals();
        assertEq(escrow.cost(2.5e12, 1_440_000), unit);
        assertEq(IComputeEscrow(escrow.extension()).cost(2.5e12, 1_440_000), unit);
        _settleUnder(plain, unit);
        assertEq(escrow.feesOf(provider), unit * feeBps / 20_000, "of half a token");
        address[] memory providers = new address[](1);
        providers[0] = provider;
        escrow.collectFees(providers);
        assertEq(escrow.balanceOf(feeRecipient), unit * feeBps / 20_000);
    }

    /// @dev Tops a lease up, then settles half a token in the last second of the settle window.
    function _settleUnder(PlainToken plain, uint256 unit) private {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        (ask.maxFeeBps, bid.maxFeeBps, bid.budget) = (1000, 1000, uint128(100 * unit));
        _fund(plain, buyer, 10 * unit);
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        uint256 lock = (2.5e12 * 3600 * unit + 3.6e15 - 1) / 3.6e15;
        assertEq(_lease(leaseNo).locked, lock);
        vm.prank(buyer);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), 0, 120);
        lock = (2.5e12 * 3720 * unit + 3.6e15 - 1) / 3.6e15;
        assertEq(_lease(leaseNo).locked, lock);
        assertEq(escrow.balanceOf(buyer), 10 * unit - lock);
        uint256 last = block.timestamp + 4320 + escrow.settleWindow();
        vm.warp(last + 1);
        assertFalse(_settle(leaseNo, 720_000));
        vm.warp(last);
        assertTrue(_settle(leaseNo, 720_000));
    }

    function _fund(PlainToken plain, address account, uint256 amount) private {
        plain.mint(account, amount);
        vm.startPrank(account);
        plain.approve(address(escrow), amount);
        escrow.deposit(amount);
        vm.stopPrank();
    }

    /* ONE DOMAIN */

    function test_domain_is_described_by_erc_5267() public view {
        (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address verifyingContract,
            bytes32 salt,
            uint256[] memory extensions
        ) = IERC5267(address(escrow)).eip712Domain();
        assertEq(fields, hex"0f"); // name, version, chain and contract
        assertEq(name, "Coulomb");
        assertEq(version, "1");
        assertEq(chainId, block.chainid);
        assertEq(verifyingContract, address(escrow));
        assertEq(salt, bytes32(0));
        assertEq(extensions.length, 0);
        assertEq(escrow.domainSeparator(), TypedData.domain(block.chainid, address(escrow)));
    }

    /// @dev The extension's code takes signatures for the escrow, not for itself.
    function test_signature_for_the_extensions_address_is_refused() public {
        bytes32 domain = TypedData.domain(block.chainid, _extension);
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(buyerKey, TypedData.digest(domain, TypedData.cancel(buyer, Numbered.Orders, 1, false)));
        _expect(IEscrowBase.InvalidSignature.selector, buyer);
        escrow.cancel(buyer, Numbered.Orders, 1, false, abi.encodePacked(r, s, v));
    }

    /// @dev Invariant 10, in both codes.
    function testFuzz_domain_follows_the_chain(uint64 chainId) public {
        vm.assume(chainId != block.chainid && chainId > 0);
        bytes memory before = _sign(buyerKey, TypedData.cancel(buyer, Numbered.Orders, 1, false));
        vm.chainId(chainId);
        assertEq(escrow.domainSeparator(), TypedData.domain(chainId, address(escrow)));
        (,,, uint256 described,,,) = IERC5267(address(escrow)).eip712Domain();
        assertEq(described, chainId);
        _expect(IEscrowBase.InvalidSignature.selector, buyer);
        escrow.cancel(buyer, Numbered.Orders, 1, false, before);
        escrow.cancel(
            buyer, Numbered.Orders, 1, false, _sign(buyerKey, TypedData.cancel(buyer, Numbered.Orders, 1, false))
        );
        (, bool cancelled) = escrow.saltState(buyer, Numbered.Orders, 1);
        assertTrue(cancelled);
    }
}
